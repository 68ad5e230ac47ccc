#include "cli/findings.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

absl::string_view NameOf(Verdict verdict) {
  return verdict == Verdict::kOk ? "ok" : verdict == Verdict::kWarn ? "warn" : "fail";
}

Colour ColourOf(Verdict verdict) {
  return verdict == Verdict::kOk ? Colour::kGreen : verdict == Verdict::kWarn ? Colour::kYellow : Colour::kRed;
}

int64_t Count(const std::vector<Finding>& findings, Verdict verdict) {
  return std::count_if(findings.begin(), findings.end(),
                       [verdict](const Finding& finding) { return finding.verdict == verdict; });
}

}  // namespace

std::string FindingsTable(const std::vector<Finding>& findings) {
  std::vector<std::vector<std::string>> rows = {{"", "check", "found", "cure"}};
  for (const Finding& finding : findings) {
    rows.push_back(
        {Paint(ColourOf(finding.verdict), NameOf(finding.verdict)), finding.check, finding.found, finding.cure});
  }
  std::string out = FormatTable(rows);
  absl::StrAppend(&out, "\n", Count(findings, Verdict::kOk), " ok, ", Count(findings, Verdict::kWarn), " warn, ",
                  Count(findings, Verdict::kFail), " fail\n");
  return out;
}

std::string FindingsJson(const std::vector<Finding>& findings) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["ok"] = Count(findings, Verdict::kOk);
  json["warn"] = Count(findings, Verdict::kWarn);
  json["fail"] = Count(findings, Verdict::kFail);
  json["findings"] = Json::array();
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"check", finding.check},
                                {"verdict", std::string(NameOf(finding.verdict))},
                                {"found", finding.found},
                                {"cure", finding.cure}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

int FindingsExitStatus(const std::vector<Finding>& findings) { return Count(findings, Verdict::kFail) > 0 ? 1 : 0; }

}  // namespace interlace
