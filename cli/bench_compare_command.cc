#include "cli/bench_compare_command.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "bench/serve/load_compare.h"
#include "bench/serve/load_json.h"
#include "bench/serve/load_page.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string Level(const MetricChange& m, double value) {
  if (m.is_share) return absl::StrFormat("%.1f %%", 100 * value);
  if (!m.lower_is_better) return absl::StrFormat("%.4g", value);
  return absl::StrFormat("%.4g ms", value * 1e3);
}

std::string Size(const MetricChange& m, double value) {
  if (m.is_share) return absl::StrFormat("%+.1f pp", 100 * value);
  return absl::StrFormat(value < 10 ? "%.3f" : "%.4g", value);
}

std::string Verdict(Change change) {
  switch (change) {
    case Change::kWorse:
      return Paint(Colour::kRed, ChangeName(change));
    case Change::kBetter:
      return Paint(Colour::kGreen, ChangeName(change));
    case Change::kUndecided:
      return Paint(Colour::kYellow, ChangeName(change));
    case Change::kNone:
      break;
  }
  return Paint(Colour::kDim, ChangeName(change));
}

std::string Table(const LoadComparison& comparison, double tolerance) {
  std::string out;
  for (const LoadChange& load : comparison.loads) {
    absl::StrAppend(&out, Paint(Colour::kBold, load.load), "\n", load.pairs, load.pairs == 1 ? " pair" : " pairs",
                    ", 95 % interval: ", load.interval, ", tolerance ", absl::StrFormat("%.3g %%", 100 * tolerance),
                    "\n");
    std::vector<std::vector<std::string>> rows = {{"", "A", "B", "B/A", "from", "to", ""}};
    for (const MetricChange& m : load.metrics) {
      rows.push_back({m.metric, Level(m, m.a), Level(m, m.b), Size(m, m.change), Size(m, m.low), Size(m, m.high),
                      Verdict(m.verdict)});
    }
    absl::StrAppend(&out, FormatTable(rows));
    if (load.texts_compared > 0) {
      absl::StrAppend(&out, "texts: ", load.texts_equal, " of ", load.texts_compared, " equal\n");
    }
    for (const std::string& doubt : load.doubts) absl::StrAppend(&out, Paint(Colour::kYellow, "doubt: "), doubt, "\n");
    absl::StrAppend(&out, "\n");
  }
  for (const std::string& run : comparison.unpaired) {
    absl::StrAppend(&out, Paint(Colour::kYellow, "without a partner: "), run, "\n");
  }
  absl::StrAppend(&out, comparison.regressed() ? Paint(Colour::kRed, "B is worse than A") : "B is not worse than A",
                  "\n");
  return out;
}

std::string Json(const LoadComparison& comparison, const BenchCompareOptions& options, double tolerance) {
  OrderedJson out = {{"a", options.a},
                     {"b", options.b},
                     {"tolerance", tolerance},
                     {"confidence", CompareOptions{}.confidence},
                     {"regressed", comparison.regressed()}};
  out["loads"] = OrderedJson::array();
  for (const LoadChange& load : comparison.loads) {
    OrderedJson to = {{"load", load.load}, {"pairs", load.pairs}, {"interval", load.interval}};
    to["metrics"] = OrderedJson::array();
    for (const MetricChange& m : load.metrics) {
      to["metrics"].push_back({{"metric", m.metric},
                               {"lower_is_better", m.lower_is_better},
                               {"kind", m.is_share ? "difference" : "ratio"},
                               {"a", m.a},
                               {"b", m.b},
                               {"change", m.change},
                               {"low", m.low},
                               {"high", m.high},
                               {"verdict", ChangeName(m.verdict)}});
    }
    to["texts_compared"] = load.texts_compared;
    to["texts_equal"] = load.texts_equal;
    to["doubts"] = load.doubts;
    out["loads"].push_back(std::move(to));
  }
  out["unpaired"] = comparison.unpaired;
  return out.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

// The runs of both in one report; labels that both have are told apart by the side.
LoadReport Together(const LoadReport& a, const LoadReport& b) {
  LoadReport out = {.environment = b.environment, .runs = a.runs};
  const auto has = [](const LoadReport& report, const std::string& label) {
    for (const LoadRun& run : report.runs) {
      if (run.label == label) return true;
    }
    return false;
  };
  for (LoadRun& run : out.runs) {
    if (has(b, run.label)) run.label = run.label.empty() ? "A" : absl::StrCat(run.label, " (A)");
  }
  for (LoadRun run : b.runs) {
    if (has(a, run.label)) run.label = run.label.empty() ? "B" : absl::StrCat(run.label, " (B)");
    out.runs.push_back(std::move(run));
  }
  return out;
}

}  // namespace

absl::StatusOr<double> ParseTolerance(absl::string_view text) {
  absl::string_view number = text;
  const bool percent = absl::ConsumeSuffix(&number, "%");
  double value = 0;
  if (!absl::SimpleAtod(number, &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat("--tolerance \"", text, "\": write 5% or 0.05"));
  }
  if (percent) value /= 100;
  if (value < 0 || value >= 1) {
    return absl::InvalidArgumentError(absl::StrCat("--tolerance \"", text, "\": must be at least 0 and below 100%"));
  }
  return value;
}

absl::StatusOr<int> BenchCompareCommand(const BenchCompareOptions& options) {
  CompareOptions compare;
  ASSIGN_OR_RETURN(compare.tolerance, ParseTolerance(options.tolerance));
  ASSIGN_OR_RETURN(const LoadReport a, ReadLoadReport(options.a));
  ASSIGN_OR_RETURN(const LoadReport b, ReadLoadReport(options.b));
  ASSIGN_OR_RETURN(const LoadComparison comparison, CompareLoads(a.runs, b.runs, compare));
  const std::string json = Json(comparison, options, compare.tolerance);
  if (options.json != "-") {
    const std::string table = Table(comparison, compare.tolerance);
    std::fwrite(table.data(), 1, table.size(), stdout);
    if (!options.json.empty()) RETURN_IF_ERROR(WriteLoadFile(options.json, json));
  } else {
    std::fwrite(json.data(), 1, json.size(), stdout);
  }
  if (!options.html.empty()) {
    RETURN_IF_ERROR(WriteLoadFile(options.html, LoadPage(Together(a, b), "Comparison of load runs")));
  }
  return comparison.regressed() ? 1 : 0;
}

}  // namespace interlace
