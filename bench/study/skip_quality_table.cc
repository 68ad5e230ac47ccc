// Quality against cost, as tables and JSON.
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/study/skip_quality.h"

namespace interlace {
namespace {

using nlohmann::ordered_json;
using Cells = std::vector<std::vector<std::string>>;

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

// "0.0123", "12.5", "1.2e+05": three digits that say something.
std::string Digits(double value) { return absl::StrFormat("%.3g", value); }

// Of the rows with texts, whether they lie on the front of a cost and the agreement; the whole model is on it too.
std::vector<bool> AgreementFront(const std::vector<QualityRow>& rows, double QualityRow::*cost) {
  std::vector<std::pair<double, double>> points;
  for (const QualityRow& row : rows) {
    points.emplace_back(row.texts > 0 ? row.*cost : HUGE_VAL, row.texts > 0 ? -row.agreement.mean : HUGE_VAL);
  }
  points.emplace_back(1, -1);
  std::vector<bool> front = ParetoFront(points);
  front.pop_back();
  return front;
}

ordered_json JsonOf(const Interval& interval) { return {interval.low, interval.high}; }

ordered_json JsonOf(const TestRow& row) {
  return {{"test", row.test},
          {"items", row.items},
          {"right", row.right},
          {"share", row.share.mean},
          {"share_95", JsonOf(row.share)},
          {"gained", row.gained},
          {"lost", row.lost},
          {"mcnemar_p", row.chance},
          {"flops", row.flops},
          {"bytes", row.bytes}};
}

}  // namespace

std::string SettingText(const std::string& method, double setting, int32_t layers) {
  if (method == "truncation") return absl::StrFormat("%.0f of %d", setting, layers);
  if (method == "confidence") return absl::StrCat(setting);
  return absl::StrFormat("%.3g %%", 100 * setting);
}

Cells QualityTable(const SkipQuality& quality, int32_t layers) {
  Cells cells = {{"way", "setting", "passed over", "FLOPs", "bytes", "perplexity", "KL, nats", "KL p99", "same choice",
                  "95 %", "same tokens"}};
  const std::vector<QualityRow> rows = QualityRows(quality);
  const std::vector<bool> flops = AgreementFront(rows, &QualityRow::flops);
  const std::vector<bool> bytes = AgreementFront(rows, &QualityRow::bytes);
  if (!quality.samples.empty()) {
    cells.push_back({"whole", "", Percent(0), Percent(1), Percent(1), Digits(WholePerplexity(quality)), "0", "0",
                     Percent(1), "", ""});
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const QualityRow& row = rows[i];
    if (row.texts == 0) continue;
    cells.push_back({row.method, SettingText(row.method, row.setting, layers), Percent(row.passed),
                     absl::StrCat(Percent(row.flops), flops[i] ? " *" : ""),
                     absl::StrCat(Percent(row.bytes), bytes[i] ? " *" : ""), Digits(row.perplexity), Digits(row.kl),
                     Digits(row.kl_p99), Percent(row.agreement.mean),
                     absl::StrFormat("%.0f to %.0f", 100 * row.agreement.low, 100 * row.agreement.high),
                     absl::StrFormat("%.4g of %d", row.same, row.decoded)});
  }
  return cells;
}

Cells AccuracyTable(const SkipQuality& quality, int32_t layers) {
  Cells cells = {{"way", "setting", "test", "FLOPs", "bytes", "right", "share", "95 %", "gained", "lost", "p"}};
  const auto add = [&](const std::string& method, const std::string& setting, const TestRow& row) {
    cells.push_back({method, setting, row.test, Percent(row.flops), Percent(row.bytes),
                     absl::StrFormat("%d of %d", row.right, row.items), Percent(row.share.mean),
                     absl::StrFormat("%.0f to %.0f", 100 * row.share.low, 100 * row.share.high),
                     absl::StrCat(row.gained), absl::StrCat(row.lost), absl::StrFormat("%.3f", row.chance)});
  };
  for (const SkipTest& test : quality.tests) {
    if (const auto whole = WholeTest(quality, test.name)) add("whole", "", *whole);
    for (const QualityRow& row : QualityRows(quality)) {
      for (const TestRow& of_test : row.tests) {
        if (of_test.test == test.name) add(row.method, SettingText(row.method, row.setting, layers), of_test);
      }
    }
  }
  return cells;
}

ordered_json QualityJson(const SkipQuality& quality) {
  ordered_json json = {{"whole_perplexity", WholePerplexity(quality)}};
  for (const SkipTest& test : quality.tests) {
    ordered_json of_test = {{"name", test.name}, {"what", test.what}, {"chance", test.chance}};
    if (const auto whole = WholeTest(quality, test.name)) of_test["whole"] = JsonOf(*whole);
    json["tests"].push_back(std::move(of_test));
  }
  const std::vector<QualityRow> rows = QualityRows(quality);
  const std::vector<bool> flops = AgreementFront(rows, &QualityRow::flops);
  const std::vector<bool> bytes = AgreementFront(rows, &QualityRow::bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    const QualityRow& row = rows[i];
    ordered_json of_row = {{"method", row.method}, {"setting", row.setting}};
    if (row.texts > 0) {
      of_row.update(ordered_json{{"texts", row.texts},
                                 {"positions", row.positions},
                                 {"passed", row.passed},
                                 {"flops", row.flops},
                                 {"bytes", row.bytes},
                                 {"perplexity", row.perplexity},
                                 {"kl", row.kl},
                                 {"kl_p99", row.kl_p99},
                                 {"agreement", row.agreement.mean},
                                 {"agreement_95", JsonOf(row.agreement)},
                                 {"same_tokens_median", row.same},
                                 {"decoded", row.decoded},
                                 {"on_front_of_flops", static_cast<bool>(flops[i])},
                                 {"on_front_of_bytes", static_cast<bool>(bytes[i])}});
    }
    for (const TestRow& test : row.tests) of_row["tests"].push_back(JsonOf(test));
    json["rows"].push_back(std::move(of_row));
  }
  return json;
}

}  // namespace interlace
