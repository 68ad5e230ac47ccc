// What answers are worth that a model gives without some of its sublayers, against what they cost: figures, Pareto
// front, tables, pictures. Pure; cli/skip_quality measures.
#pragma once

#include <cstdint>
#include <iterator>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "bench/serve/load_interval.h"
#include "bench/study/skip_cost.h"

namespace interlace {

// Ways to run a model. Plans of five kinds (kSkipMethods), which pass over a share of the sublayers between the first
// and the last layer; truncation: behind the first so many layers nothing runs but the last; confidence: behind some
// layers the head is asked, and where its first choice leads by so much probability the other layers are passed over,
// the last included (CALM, arXiv 2207.07061).
inline constexpr const char* kSkipWays[] = {"random", "even", "static", "task", "own", "truncation", "confidence"};
// Of the palette, by place in kSkipWays: grey for what nobody chose.
constexpr int WayColour(size_t way) {
  return static_cast<int>((way + std::size(kSkipWays) - 1) % std::size(kSkipWays));
}

// One text whose second half was computed one way, its first half wholly.
struct QualitySample {
  std::string method;  // one of kSkipWays
  // Share of the inner sublayers passed over; of truncation, layers that run before the last; of confidence, the lead.
  double setting = 0;
  std::string task;
  int64_t positions = 0;
  double passed = 0;           // shares of the model's sublayers, summed over positions
  TokenCost cost, whole_cost;  // likewise; of this way and of the whole model
  double nll = 0, whole_nll = 0;
  std::vector<double> kl;  // [positions] KL(whole || this way), nats
  int64_t agreed = 0;      // positions whose first choice is the whole model's
  // Greedy decoding behind the text: tokens before the first that the whole model does not give, of so many.
  int32_t same = 0, decoded = 0;
};

// One test's items, answered one way.
struct TestSample {
  std::string method;  // of kSkipWays; "whole": the whole model
  double setting = 0;
  std::string test;
  std::vector<bool> right;     // by item
  TokenCost cost, whole_cost;  // of the tokens that the way computed
};

struct SkipTest {
  std::string name, what;  // "choice"; a sentence on its items
  double chance = 0;       // what guessing gets
};

struct SkipQuality {
  std::vector<QualitySample> samples;
  std::vector<SkipTest> tests;
  std::vector<TestSample> test_samples;
};

// Share of `tried` that were right, by Wilson's score interval (1927), two-sided 95 %. Of none: 0 to 1.
Interval WilsonInterval(int64_t right, int64_t tried);
// The chance that of `gained` + `lost` items, each as likely gained as lost, the split is at least as uneven
// (McNemar's exact test, two-sided).
double PairedChance(int64_t gained, int64_t lost);
// Of (cost, loss) pairs: whether no other has both at most as large and one of them smaller.
std::vector<bool> ParetoFront(absl::Span<const std::pair<double, double>> points);

struct TestRow {
  std::string test;
  int64_t items = 0, right = 0;
  Interval share;                // 95 %
  int64_t gained = 0, lost = 0;  // items that this way alone, or the whole model alone, answers right
  double chance = 1;             // PairedChance of them
  double flops = 0, bytes = 0;   // over the whole model's, on this test's tokens
};

// All texts of one way and setting.
struct QualityRow {
  std::string method;
  double setting = 0;
  int64_t texts = 0, positions = 0;
  double passed = 0;            // share of the model's sublayers
  double flops = 0, bytes = 0;  // of a token, over the whole model's
  double perplexity = 0;
  double kl = 0, kl_p99 = 0;
  Interval agreement;          // share of positions with the whole model's first choice; 95 %
  double same = 0;             // greedy tokens before the first other one, median over texts
  int32_t decoded = 0;         // of so many
  std::vector<TestRow> tests;  // in the order of SkipQuality::tests
};
// By way, then the more passed over the later. A way that was only tested has no texts.
std::vector<QualityRow> QualityRows(const SkipQuality& quality);
double WholePerplexity(const SkipQuality& quality);  // over the same positions; 0: no texts
std::optional<TestRow> WholeTest(const SkipQuality& quality, const std::string& test);

// "20 %", "24 of 30", "0.9".
std::string SettingText(const std::string& method, double setting, int32_t layers);
// Cells, the first row the heading. "*" behind a way's cost: no other has less of it and agrees more often.
std::vector<std::vector<std::string>> QualityTable(const SkipQuality& quality, int32_t layers);
std::vector<std::vector<std::string>> AccuracyTable(const SkipQuality& quality, int32_t layers);
nlohmann::ordered_json QualityJson(const SkipQuality& quality);
// Sections of a page; empty where nothing was measured.
std::string QualitySections(const SkipQuality& quality, int32_t layers);

}  // namespace interlace
