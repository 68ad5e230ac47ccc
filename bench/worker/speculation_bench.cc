// What speculation buys: decode speed of sched.speculate's modes over plain decoding, interleaved in one run.
//   speculation_bench MODEL TEXT [ROUNDS [TOKENS]]
// TEXT is a file whose words prompts are made of. Prints, for each case and mode, the median over the rounds of tokens
// a second and of its ratio to `off` in the same round.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "cli/in_process_replica.h"
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
constexpr absl::string_view kIndexed = "+index";

// When its first and its last token came.
class TimedSink final : public TokenSink {
 public:
  explicit TimedSink(Clock& clock) : clock_(clock) {}
  void OnTokens(absl::Span<const int32_t> tokens) override {
    absl::MutexLock lock(&mutex_);
    if (tokens_ == 0) first_ = clock_.Now();
    tokens_ += static_cast<int32_t>(tokens.size());
    last_ = clock_.Now();
  }
  void OnEnd(const RequestEnd& end) override {
    absl::MutexLock lock(&mutex_);
    CHECK_MSG(end.status.ok(), end.status.ToString().c_str());
    ended_ = true;
  }
  void Wait(absl::Time* first, absl::Time* last, int32_t* tokens) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&ended_));
    *first = std::min(*first, first_);
    *last = std::max(*last, last_);
    *tokens += tokens_ - 1;
  }

 private:
  Clock& clock_;
  absl::Mutex mutex_;
  absl::Time first_, last_;
  int32_t tokens_ = 0;
  bool ended_ = false;
};

class Bench {
 public:
  Bench(std::string model, std::string text, int rounds, int32_t tokens)
      : model_(std::move(model)), text_(std::move(text)), rounds_(rounds), tokens_(tokens) {}

  void Run(const Case& c) {
    std::map<std::string, std::unique_ptr<InProcessReplica>> replicas;
    for (const char* mode : kModes) replicas[mode] = Replica(c, mode);
    std::map<std::string, std::vector<double>> speeds, ratios;
    for (int round = -1; round < rounds_; ++round) {  // the first warms up, and the cost model learns
      std::map<std::string, double> speed;
      for (const char* mode : kModes) speed[mode] = Decode(c, *replicas[mode], round);
      for (const char* mode : kModes) {
        if (round < 0) continue;
        speeds[mode].push_back(speed[mode]);
        ratios[mode].push_back(speed[mode] / speed["off"]);
      }
    }
    for (const char* mode : kModes) {
      std::printf("%-36s %-10s %7.1f tokens/s %5.2fx (%.2f-%.2f)  %s\n", c.name, mode, Quantile(speeds[mode], 0.5),
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
  static double Quantile(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
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
    auto replica = InProcessReplica::Create(config, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    CHECK_MSG(replica.ok(), replica.status().ToString().c_str());
    return *std::move(replica);
  }
  // Tokens a second behind the first ones. All rounds begin elsewhere in the text, all modes of a round at the same
  // place.
  double Decode(const Case& c, InProcessReplica& replica, int round) {
    if (words_.empty()) words_ = replica.tokenizer().Encode(text_, false);
    std::vector<std::shared_ptr<TimedSink>> sinks;
    for (int32_t s = 0; s < c.streams; ++s) {
      Request request{.id = RequestId{++requests_}, .name = absl::StrCat("r", requests_)};
      const size_t from = static_cast<size_t>((round + 1) * c.streams + s) * 2500 % (words_.size() - 2500);
      for (int32_t i = 0; i < c.prompt; ++i) request.prompt.push_back(words_[from + (c.repeats ? i % 64 : i)]);
      request.max_tokens = tokens_;
      request.arrival = clock_.Now();
      request.deadline = request.arrival + absl::Minutes(10);
      request.sink = sinks.emplace_back(std::make_shared<TimedSink>(clock_));
      CHECK(replica.engine().Submit(std::move(request)).ok());
    }
    absl::Time first = absl::InfiniteFuture(), last = absl::InfinitePast();
    int32_t tokens = 0;
    for (const auto& sink : sinks) sink->Wait(&first, &last, &tokens);
    return tokens / absl::ToDoubleSeconds(last - first);
  }

  const std::string model_, text_;
  const int rounds_;
  const int32_t tokens_;
  RealClock clock_;
  FaultPoints faults_;
  std::vector<int32_t> words_;
  uint64_t requests_ = 0;
};

int Main(int argc, char** argv) {
  int rounds = 5, tokens = 96;
  if (argc < 3 || (argc > 3 && !absl::SimpleAtoi(argv[3], &rounds)) ||
      (argc > 4 && !absl::SimpleAtoi(argv[4], &tokens)) || rounds < 1 || tokens < 2) {
    std::fprintf(stderr, "usage: speculation_bench MODEL TEXT [ROUNDS [TOKENS]]\n");
    return 1;
  }
  std::ifstream file(argv[2], std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() < 100000) {
    std::fprintf(stderr, "speculation_bench: %s holds less than 100 kB\n", argv[2]);
    return 1;
  }
  text.resize(std::min<size_t>(text.size(), 1000000));
  Bench bench(argv[1], std::move(text), rounds, tokens);
  for (const Case& c : kCases) bench.Run(c);
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc, argv); }
