// scheduler_bench [sequences [steps [policies [waiting]]]]: the time of one decision while that many sequences decode
// on one stage and `waiting` others wait for room, under each policy (all, or names with commas between). Each step, a
// result comes back (OnResult: commit) and the next plan is made and sent (RunOnce: plan, deliver). Wall time holds
// what other processes took of the core meanwhile; the thread's own CPU time does not. Last, what it costs the thread
// when somebody looks at /ui or `interlace top` between two steps.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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
    result.run_us = 5000 + 20 * plan.tokens();
    result.bytes_in = result.bytes_out = 1 << 20;
    result.transfer_in_us = result.transfer_out_us = 100;
    result.sampled.reserve(plan.sequences.size());
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

struct Moment {
  absl::Time wall;
  double cpu_us = 0;  // of this thread
};

Moment Now(Clock& clock) {
  timespec cpu{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  return {clock.Now(), 1e6 * static_cast<double>(cpu.tv_sec) + 1e-3 * static_cast<double>(cpu.tv_nsec)};
}

struct Times {
  std::vector<double> wall_us, cpu_us;
  void Add(const Moment& from, const Moment& to) {
    wall_us.push_back(absl::ToDoubleMicroseconds(to.wall - from.wall));
    cpu_us.push_back(to.cpu_us - from.cpu_us);
  }
};

double At(double share, std::vector<double>* micros) {
  const auto at = static_cast<ptrdiff_t>(share * static_cast<double>(micros->size() - 1));
  std::nth_element(micros->begin(), micros->begin() + at, micros->end());
  return (*micros)[at];
}

void Report(const char* what, Times times) {
  std::printf("%-24s", what);
  for (auto [clock, micros] : {std::pair{"wall", &times.wall_us}, std::pair{"cpu", &times.cpu_us}}) {
    std::printf("   %s p50 %6.1f  p99 %6.1f  max %7.1f us", clock, At(0.5, micros), At(0.99, micros), At(1, micros));
  }
  std::printf("\n");
}

void Run(const Policy& policy, int32_t sequences, int32_t steps, int32_t waiting) {
  RealClock clock;
  Metrics metrics("bench");
  Channel channel;
  Scheduler::Options options;
  options.step_tokens = 1 << 20;
  options.max_running = sequences;
  options.context = kPrompt + 2 * steps + 1000;
  Scheduler scheduler(options, policy, clock, metrics, channel);
  const RankInfo rank = Rank(sequences, options.context);
  scheduler.OnFormed(Epoch{1}, {&rank, 1});
  const auto sink = std::make_shared<Sink>();
  const auto admit = [&](int32_t i) {
    Request request{.id = RequestId{static_cast<uint64_t>(i) + 1}, .name = absl::StrCat("r", i)};
    request.prompt.assign(kPrompt + i % kBlockTokens, i % 997);
    request.prompt[0] = i / 997;
    request.max_tokens = options.context - kPrompt - kBlockTokens;
    request.arrival = clock.Now();
    request.deadline = absl::InfiniteFuture();
    request.targets.tpot = absl::Milliseconds(50);
    request.targets.largest_gap = absl::Seconds(4);
    request.targets.tenant = absl::StrCat("t", i % 8);
    request.sink = sink;
    scheduler.Admit(std::move(request));
  };
  for (int32_t i = 0; i < sequences; ++i) admit(i);
  const auto step = [&](Times* commit, Times* plan, Times* both) {
    StepResult result = std::move(channel.results.front());
    channel.results.pop_front();
    const Moment begin = Now(clock);
    scheduler.OnResult(std::move(result));
    const Moment middle = Now(clock);
    scheduler.RunOnce();
    const Moment end = Now(clock);
    commit->Add(begin, middle);
    plan->Add(middle, end);
    both->Add(begin, end);
  };
  scheduler.RunOnce();
  Times warm_up, commit, plan, both;
  for (int32_t i = 0; i < 2 * sequences && channel.sequences < static_cast<size_t>(sequences); ++i) {
    step(&warm_up, &warm_up, &warm_up);
  }
  for (int32_t i = 0; i < waiting; ++i) admit(sequences + i);
  for (int32_t i = 0; i < 20; ++i) step(&warm_up, &warm_up, &warm_up);
  for (int32_t i = 0; i < steps; ++i) step(&commit, &plan, &both);
  std::printf("%s: %zu sequences in a plan, %d wait, %d steps\n", std::string(policy.name).c_str(), channel.sequences,
              scheduler.Load().waiting, steps);
  Report("OnResult (commit)", commit);
  Report("RunOnce (plan, deliver)", plan);
  Report("both", both);
  Times look;
  size_t rows = 0;
  for (int32_t i = 0; i < steps; ++i) {
    step(&warm_up, &warm_up, &warm_up);
    const Moment begin = Now(clock);
    rows += scheduler.Snapshot().requests.size();
    look.Add(begin, Now(clock));
  }
  Report(absl::StrCat("Snapshot, ", rows / steps, " rows").c_str(), look);
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::SetLogSink([](const interlace::LogEvent&) {}, interlace::LogLevel::kError);
  const std::string names = argc > 3 ? argv[3] : "";
  for (const interlace::Policy& policy : interlace::Policies()) {
    const std::vector<std::string> asked = absl::StrSplit(names, ',', absl::SkipEmpty());
    if (!asked.empty() && std::find(asked.begin(), asked.end(), policy.name) == asked.end()) continue;
    interlace::Run(policy, argc > 1 ? std::atoi(argv[1]) : 1000, argc > 2 ? std::atoi(argv[2]) : 1000,
                   argc > 4 ? std::atoi(argv[4]) : 0);
  }
  return 0;
}
