// scheduler_bench [sequences [steps]]: the time of one decision while that many sequences decode on one stage. Each
// step, a result comes back (OnResult: commit) and the next plan is made and sent (RunOnce: plan, deliver).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 32, kBlockTokens = 16, kPrompt = 64;

class Channel final : public PlanChannel {
 public:
  void Send(const StepPlan& plan) override {
    StepResult result{.epoch = plan.epoch, .plan = plan.id};
    for (const PlanSequence& s : plan.sequences) {
      if (s.sample) result.sampled.push_back({s.request, s.attempt, s.sample_index, 7, {}});
    }
    sequences = plan.sequences.size();
    results.push_back(std::move(result));
  }
  void Reset(const absl::Status&) override {}
  std::deque<StepResult> results;
  size_t sequences = 0;  // of the latest plan
};

class Sink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t>) override {}
  void OnEnd(const RequestEnd&) override {}
};

RankInfo Rank(int32_t sequences, int32_t tokens) {
  RankInfo rank{.stages = 1, .model_digest = "bench", .numerics = "bench", .dtype = "BF16", .layers = kLayers};
  rank.layer_end = kLayers;
  rank.windows.assign(kLayers, 0);
  rank.vocab = 1000;
  rank.kv_heads = rank.head_dim = 1;
  rank.heads = {0, 1};
  rank.block_tokens = kBlockTokens;
  rank.device_slots = sequences * kLayers * (tokens / kBlockTokens + 3);
  rank.slot_bytes = 1024;
  rank.step_tokens = 1 << 20;
  return rank;
}

void Report(const char* what, std::vector<double> micros) {
  std::sort(micros.begin(), micros.end());
  const auto at = [&](double share) {
    return micros[static_cast<size_t>(share * static_cast<double>(micros.size() - 1))];
  };
  std::printf("%-24s p50 %8.1f us   p99 %8.1f us   max %8.1f us\n", what, at(0.5), at(0.99), at(1));
}

void Run(int32_t sequences, int32_t steps) {
  RealClock clock;
  Metrics metrics("bench");
  Channel channel;
  Scheduler::Options options;
  options.step_tokens = 1 << 20;
  options.max_running = sequences;
  options.context = kPrompt + 2 * steps + 1000;
  Scheduler scheduler(options, &FcfsBefore, clock, metrics, channel);
  const RankInfo rank = Rank(sequences, options.context);
  scheduler.OnFormed(Epoch{1}, {&rank, 1});
  const auto sink = std::make_shared<Sink>();
  for (int32_t i = 0; i < sequences; ++i) {
    Request request{.id = RequestId{static_cast<uint64_t>(i) + 1}, .name = absl::StrCat("r", i)};
    request.prompt.assign(kPrompt + i % kBlockTokens, i % 997);
    request.prompt[0] = i / 997;
    request.max_tokens = options.context - kPrompt - kBlockTokens;
    request.arrival = clock.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = sink;
    scheduler.Admit(std::move(request));
  }
  const auto step = [&](std::vector<double>* commit, std::vector<double>* plan) {
    StepResult result = std::move(channel.results.front());
    channel.results.pop_front();
    const absl::Time begin = clock.Now();
    scheduler.OnResult(std::move(result));
    const absl::Time middle = clock.Now();
    scheduler.RunOnce();
    const absl::Time end = clock.Now();
    if (commit != nullptr) commit->push_back(absl::ToDoubleMicroseconds(middle - begin));
    if (plan != nullptr) plan->push_back(absl::ToDoubleMicroseconds(end - middle));
  };
  scheduler.RunOnce();
  for (int32_t i = 0; i < 2 * sequences && channel.sequences < static_cast<size_t>(sequences); ++i)
    step(nullptr, nullptr);
  for (int32_t i = 0; i < 20; ++i) step(nullptr, nullptr);
  std::vector<double> commit, plan;
  for (int32_t i = 0; i < steps; ++i) step(&commit, &plan);
  std::printf("%zu sequences in a plan, %d steps\n", channel.sequences, steps);
  Report("OnResult (commit)", commit);
  Report("RunOnce (plan, deliver)", plan);
  for (size_t i = 0; i < plan.size(); ++i) plan[i] += commit[i];
  Report("both", plan);
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::SetLogSink([](const interlace::LogEvent&) {}, interlace::LogLevel::kError);
  interlace::Run(argc > 1 ? std::atoi(argv[1]) : 1000, argc > 2 ? std::atoi(argv[2]) : 1000);
  return 0;
}
