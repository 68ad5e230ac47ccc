// What speculation buys: decode speed of sched.speculate's modes over plain decoding, interleaved in one run.
//   speculation_bench MODEL TEXT [ROUNDS [TOKENS [DRAFT_MODEL]]]
// TEXT is a file whose words prompts are made of. Prints, for each case and mode, the median over the rounds of tokens
// a second and of its ratio to `off` in the same round. With DRAFT_MODEL, a smaller model with the same vocabulary, its
// guesses are measured too.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "bench/worker/timed_decode.h"
#include "cli/bench_report.h"
#include "common/check.h"

namespace interlace {
namespace {

struct Case {
  const char* name;
  int32_t prompt;    // tokens
  int32_t streams;   // at once
  bool repeats;      // the prompt is one passage of 64 tokens, over and over
  const char* keep;  // kv.keep_layers
  int64_t link;      // bytes a second; 0: the machine's own
};
constexpr Case kCases[] = {
    {"half the layers behind 1 GB/s, 2k", 2000, 1, false, "15", 1'000'000'000},
    {"half the layers behind 0.3 GB/s, 1k", 1000, 1, false, "15", 300'000'000},
    {"repeated text, resident, 512", 512, 1, true, "auto", 0},
    {"plain text, resident, 512", 512, 1, false, "auto", 0},
    {"plain text, resident, 8 x 256", 256, 8, false, "auto", 0},
};
// sched.speculate; with "+index", streams draft by what the skip index says (skip.index).
constexpr const char* kModes[] = {"off", "ngram", "self", "self+index", "auto", "auto+index"};
constexpr const char* kDraftModel = "draft-model";
constexpr absl::string_view kIndexed = "+index";

class Bench {
 public:
  explicit Bench(const DecodeArguments& arguments)
      : model_(arguments.model),
        draft_model_(arguments.draft_model),
        modes_(std::begin(kModes), std::end(kModes)),
        rounds_(arguments.rounds),
        decode_(arguments.text, arguments.tokens, [this] { return decode_.clock().Now(); }) {
    if (!draft_model_.empty()) modes_.push_back(kDraftModel);
  }

  void Run(const Case& c) {
    std::map<std::string, std::unique_ptr<InProcessReplica>> replicas;
    for (const char* mode : modes_) replicas[mode] = Replica(c, mode);
    std::map<std::string, std::vector<double>> speeds, ratios;
    for (int round = -1; round < rounds_; ++round) {  // the first warms up, and the cost model learns
      std::map<std::string, double> speed;
      for (const char* mode : modes_) speed[mode] = Decode(c, *replicas[mode], round);
      for (const char* mode : modes_) {
        if (round < 0) continue;
        speeds[mode].push_back(speed[mode]);
        ratios[mode].push_back(speed[mode] / speed["off"]);
      }
    }
    for (const char* mode : modes_) {
      std::printf("%-36s %-11s %7.1f tokens/s %5.2fx (%.2f-%.2f)  %s\n", c.name, mode, Quantile(speeds[mode], 0.5),
                  Quantile(ratios[mode], 0.5), Quantile(ratios[mode], 0.25), Quantile(ratios[mode], 0.75),
                  Guesses(*replicas[mode]).c_str());
      std::fflush(stdout);
    }
  }

 private:
  // What was guessed, tokens for each pass of the whole model and stream, and what the index said.
  static std::string Guesses(const InProcessReplica& replica) {
    const Metrics& m = replica.metrics();
    const double right = m.Total("interlace_draft_tokens_accepted_total");
    const double tokens = m.Total("vllm:generation_tokens_total");
    std::string text = absl::StrFormat("guessed %.0f, right %.0f, tokens per pass %.2f",
                                       m.Total("interlace_draft_tokens_total"), right, tokens / (tokens - right));
    if (replica.skip_advisor() == nullptr) return text;
    const SkipCounts counts = replica.skip_advisor()->counts();
    const double lookups = static_cast<double>(std::max<int64_t>(1, counts.lookups));
    absl::StrAppendFormat(
        &text, "; advised %.0f, looked up %d, hit rate %.2f, of these wrong %d, entries %d, saved %.2f s",
        m.Total("interlace_skip_advice_total"), counts.lookups, static_cast<double>(counts.hits) / lookups,
        counts.false_hits, counts.entries, counts.saved_seconds);
    return text;
  }
  std::unique_ptr<InProcessReplica> Replica(const Case& c, const char* mode) {
    Config config;
    config.model.path = model_;
    config.kv.keep_layers = c.keep;
    config.kv.link_bytes.value = c.link;
    config.kv.host_bytes.value = int64_t{1} << 30;
    absl::string_view speculate = mode;
    config.skip.index = absl::ConsumeSuffix(&speculate, kIndexed);
    config.sched.speculate = std::string(speculate);
    if (speculate == kDraftModel) config.engine.draft_model = draft_model_;
    auto replica = InProcessReplica::Create(config, decode_.clock(), faults_, nullptr, [](int64_t, int64_t) {});
    CHECK_MSG(replica.ok(), replica.status().ToString().c_str());
    return *std::move(replica);
  }
  double Decode(const Case& c, InProcessReplica& replica, int round) {
    return decode_.Run(replica, round, c.streams, [&c](const int32_t* words, Request* request) {
      for (int32_t i = 0; i < c.prompt; ++i) request->prompt.push_back(words[c.repeats ? i % 64 : i]);
    });
  }

  const std::string model_, draft_model_;
  std::vector<const char*> modes_;
  const int rounds_;
  FaultPoints faults_;
  TimedDecode decode_;
};

int Main(int argc, char** argv) {
  DecodeArguments arguments;
  if (!ReadArguments("speculation_bench", argc, argv, &arguments)) return 1;
  Bench bench(arguments);
  for (const Case& c : kCases) bench.Run(c);
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc, argv); }
