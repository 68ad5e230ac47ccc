// What bounded answers buy, and how often they say what the whole model says: decode speed over that of exact answers,
// interleaved in one run.
//   bounded_bench MODEL TEXT [ROUNDS [TOKENS]]
// TEXT is a file whose words prompts are made of. Prints, for each case and plan, the median over the rounds of tokens
// a second and of its ratio to `exact` in the same round, the share of sublayers saved, the audits that agreed, and of
// the answers' tokens those that the exact answer has in the same place. No plan is switched off.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "cli/in_process_replica.h"
#include "common/check.h"

namespace interlace {
namespace {

struct Case {
  const char* name;
  int32_t prompt;   // tokens
  int32_t streams;  // at once
};
constexpr Case kCases[] = {{"512 tokens before", 512, 1}, {"8 streams, 256 tokens before", 256, 8}};

struct Plan {
  const char* name;
  const char* share;   // skip.bounded_share; null: exact
  int32_t exit_layer;  // 0: evenly spread
};
constexpr Plan kPlans[] = {{"exact", nullptr, 0},       {"evenly 2 %", "0.02", 0},  {"evenly 5 %", "0.05", 0},
                           {"evenly 10 %", "0.1", 0},   {"evenly 20 %", "0.2", 0},  {"evenly 40 %", "0.4", 0},
                           {"exit behind 27", "1", 27}, {"exit behind 24", "1", 24}};

class TimedSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override {
    absl::MutexLock lock(&mutex_);
    if (tokens_.empty()) first_ = Now();
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    last_ = Now();
  }
  void OnEnd(const RequestEnd& end) override {
    absl::MutexLock lock(&mutex_);
    CHECK_MSG(end.status.ok(), end.status.ToString().c_str());
    report_ = end.fidelity;
    ended_ = true;
  }
  void Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&ended_));
  }
  // Behind Wait.
  absl::Time first() const { return first_; }
  absl::Time last() const { return last_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const FidelityReport& report() const { return report_; }

 private:
  // By the time that this process computes: what else runs on the machine changes it little.
  static absl::Time Now() { return absl::UnixEpoch() + absl::Microseconds(std::clock() * 1000000 / CLOCKS_PER_SEC); }

  absl::Mutex mutex_;
  absl::Time first_, last_;
  std::vector<int32_t> tokens_;
  FidelityReport report_;
  bool ended_ = false;
};

// What became of one plan in all rounds.
struct Outcome {
  std::vector<double> speeds, ratios;
  int64_t audited = 0, agreed = 0, tokens = 0, same = 0;
  double saved = 0;
  int32_t answers = 0;
};

class Bench {
 public:
  Bench(std::string model, std::string text, int rounds, int32_t tokens)
      : model_(std::move(model)), text_(std::move(text)), rounds_(rounds), tokens_(tokens) {}

  void Run(const Case& c) {
    std::map<std::string, std::unique_ptr<InProcessReplica>> replicas;
    for (const Plan& plan : kPlans) replicas[plan.name] = Replica(plan);
    std::map<std::string, Outcome> outcomes;
    for (int round = -1; round < rounds_; ++round) {  // the first warms up
      double exact = 0;
      std::vector<std::vector<int32_t>> want;
      for (const Plan& plan : kPlans) {
        std::vector<std::shared_ptr<TimedSink>> sinks;
        const double speed = Decode(c, plan, *replicas[plan.name], round, &sinks);
        if (plan.share == nullptr) exact = speed;
        if (round < 0) continue;
        Outcome& outcome = outcomes[plan.name];
        outcome.speeds.push_back(speed);
        outcome.ratios.push_back(speed / exact);
        for (size_t s = 0; s < sinks.size(); ++s) {
          if (plan.share == nullptr) want.push_back(sinks[s]->tokens());
          Note(*sinks[s], want[s], &outcome);
        }
      }
    }
    for (const Plan& plan : kPlans) Print(c, plan.name, outcomes[plan.name]);
  }

 private:
  static void Note(const TimedSink& sink, const std::vector<int32_t>& want, Outcome* outcome) {
    const FidelityReport& report = sink.report();
    outcome->audited += report.audited;
    outcome->agreed += report.agreed;
    outcome->saved += report.saved_share();
    ++outcome->answers;
    for (size_t i = 0; i < want.size(); ++i) outcome->same += sink.tokens()[i] == want[i] ? 1 : 0;
    outcome->tokens += static_cast<int64_t>(want.size());
  }
  static double Quantile(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
  }
  static void Print(const Case& c, const char* plan, const Outcome& o) {
    std::printf(
        "%-30s %-15s %7.1f tokens/s %5.2fx (%.2f-%.2f)  saved %4.1f %%, audits agreed %lld of %lld, same token as "
        "exact %.1f %%\n",
        c.name, plan, Quantile(o.speeds, 0.5), Quantile(o.ratios, 0.5), Quantile(o.ratios, 0.25),
        Quantile(o.ratios, 0.75), 100 * o.saved / o.answers, static_cast<long long>(o.agreed),
        static_cast<long long>(o.audited), 100.0 * static_cast<double>(o.same) / static_cast<double>(o.tokens));
    std::fflush(stdout);
  }
  std::unique_ptr<InProcessReplica> Replica(const Plan& plan) {
    Config config;
    config.model.path = model_;
    config.engine.threads = 1;
    if (plan.share != nullptr) config.skip.bounded_share = plan.share;
    auto replica = InProcessReplica::Create(config, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    CHECK_MSG(replica.ok(), replica.status().ToString().c_str());
    return *std::move(replica);
  }
  // Tokens a second behind the first ones. All plans of a round begin at the same place of the text.
  double Decode(const Case& c, const Plan& plan, InProcessReplica& replica, int round,
                std::vector<std::shared_ptr<TimedSink>>* sinks) {
    if (words_.empty()) words_ = replica.tokenizer().Encode(text_, false);
    for (int32_t s = 0; s < c.streams; ++s) {
      Request request{.id = RequestId{++requests_}, .name = absl::StrCat("r", requests_)};
      const size_t from = static_cast<size_t>((round + 1) * c.streams + s) * 2500 % (words_.size() - 2500);
      request.prompt.assign(words_.begin() + static_cast<ptrdiff_t>(from),
                            words_.begin() + static_cast<ptrdiff_t>(from) + c.prompt);
      request.max_tokens = tokens_;
      if (plan.share != nullptr) request.fidelity = {FidelityMode::kBounded, 0.001f, plan.exit_layer, requests_};
      request.arrival = clock_.Now();
      request.deadline = request.arrival + absl::Minutes(10);
      request.sink = sinks->emplace_back(std::make_shared<TimedSink>());
      CHECK(replica.engine().Submit(std::move(request)).ok());
    }
    absl::Time first = absl::InfiniteFuture(), last = absl::InfinitePast();
    size_t tokens = 0;
    for (const auto& sink : *sinks) {
      sink->Wait();
      first = std::min(first, sink->first());
      last = std::max(last, sink->last());
      tokens += sink->tokens().size() - 1;
    }
    return static_cast<double>(tokens) / absl::ToDoubleSeconds(last - first);
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
    std::fprintf(stderr, "usage: bounded_bench MODEL TEXT [ROUNDS [TOKENS]]\n");
    return 1;
  }
  std::ifstream file(argv[2], std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() < 100000) {
    std::fprintf(stderr, "bounded_bench: %s holds less than 100 kB\n", argv[2]);
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
