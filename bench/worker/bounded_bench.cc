// What bounded answers buy, and how often they say what the whole model says: decode speed over that of exact answers,
// interleaved in one run.
//   bounded_bench MODEL TEXT [ROUNDS [TOKENS]]
// TEXT is a file whose words prompts are made of. Prints, for each case and plan, the median over the rounds of tokens
// a second and of its ratio to `exact` in the same round, the share of sublayers saved, the audits that agreed, and of
// the answers' tokens those that the exact answer has in the same place. No plan is switched off.
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/worker/timed_decode.h"
#include "cli/bench_report.h"
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

// By the time that this process computes: what else runs on the machine changes it little.
absl::Time ComputeTime() { return absl::UnixEpoch() + absl::Microseconds(std::clock() * 1000000 / CLOCKS_PER_SEC); }

// What became of one plan in all rounds.
struct Outcome {
  std::vector<double> speeds, ratios;
  int64_t audited = 0, agreed = 0, tokens = 0, same = 0;
  double saved = 0;
  int32_t answers = 0;
};

class Bench {
 public:
  explicit Bench(const DecodeArguments& arguments)
      : model_(arguments.model), rounds_(arguments.rounds), decode_(arguments.text, arguments.tokens, &ComputeTime) {}

  void Run(const Case& c) {
    std::map<std::string, std::unique_ptr<InProcessReplica>> replicas;
    for (const Plan& plan : kPlans) replicas[plan.name] = Replica(plan);
    std::map<std::string, Outcome> outcomes;
    for (int round = -1; round < rounds_; ++round) {  // the first warms up
      double exact = 0;
      std::vector<std::vector<int32_t>> want;
      for (const Plan& plan : kPlans) {
        const double speed = Decode(c, plan, *replicas[plan.name], round);
        if (plan.share == nullptr) exact = speed;
        if (round < 0) continue;
        Outcome& outcome = outcomes[plan.name];
        outcome.speeds.push_back(speed);
        outcome.ratios.push_back(speed / exact);
        for (size_t s = 0; s < decode_.sinks().size(); ++s) {
          const TimedSink& sink = *decode_.sinks()[s];
          if (plan.share == nullptr) want.push_back(sink.tokens());
          Note(sink, want[s], &outcome);
        }
      }
    }
    for (const Plan& plan : kPlans) Print(c, plan.name, outcomes[plan.name]);
  }

 private:
  static void Note(const TimedSink& sink, const std::vector<int32_t>& want, Outcome* outcome) {
    const FidelityReport& report = sink.end().fidelity;
    outcome->audited += report.audited;
    outcome->agreed += report.agreed;
    outcome->saved += report.saved_share();
    ++outcome->answers;
    for (size_t i = 0; i < want.size(); ++i) outcome->same += sink.tokens()[i] == want[i] ? 1 : 0;
    outcome->tokens += static_cast<int64_t>(want.size());
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
    auto replica = InProcessReplica::Create(config, decode_.clock(), faults_, nullptr, [](int64_t, int64_t) {});
    CHECK_MSG(replica.ok(), replica.status().ToString().c_str());
    return *std::move(replica);
  }
  // Tokens a second; all plans of a round begin at the same place of the text.
  double Decode(const Case& c, const Plan& plan, InProcessReplica& replica, int round) {
    return decode_.Run(replica, round, c.streams, [&](const int32_t* words, Request* request) {
      request->prompt.assign(words, words + c.prompt);
      if (plan.share == nullptr) return;
      request->fidelity = {FidelityMode::kBounded, 0.001f, plan.exit_layer, Value(request->id)};
    });
  }

  const std::string model_;
  const int rounds_;
  FaultPoints faults_;
  TimedDecode decode_;
};

int Main(int argc, char** argv) {
  DecodeArguments arguments;
  if (!ReadArguments("bounded_bench", argc, argv, &arguments)) return 1;
  Bench bench(arguments);
  for (const Case& c : kCases) bench.Run(c);
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc, argv); }
