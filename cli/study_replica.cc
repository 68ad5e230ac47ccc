#include "cli/study_replica.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_runner.h"
#include "cli/in_process_replica.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// What the steps of a run took. Thread: the runner's; read when nothing runs any more.
struct StepsSeen {
  LawFit fit;
  void See(const StepPlan& plan, const StepResult& result, absl::Duration took) {
    StepWork work;
    for (const PlanSequence& s : plan.sequences) work.Add(s.start, static_cast<int32_t>(s.tokens.size()));
    fit.Add(work, absl::ToDoubleSeconds(took) - 1e-6 * static_cast<double>(result.stall_us),
            static_cast<double>(result.bytes_in + result.bytes_out));
  }
};

absl::Duration CpuTime() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

VirtualShape ShapeOf(const RankInfo& info) {
  return {.layers = info.layers,
          .block_tokens = info.block_tokens,
          .slot_bytes = info.slot_bytes,
          .device_slots = info.device_slots,
          .host_frames = info.host_frames};
}

}  // namespace

absl::StatusOr<StudyRun> RunInProcess(const Config& config, const EngineClientOptions& client_options,
                                      const StudyRequest& request, int32_t concurrency) {
  RealClock clock;
  FaultPoints faults;
  StepsSeen seen;
  StudyRun made;
  ASSIGN_OR_RETURN(std::unique_ptr<InProcessReplica> replica,
                   InProcessReplica::Create(config, clock, faults, nullptr, [](int64_t, int64_t) {}));
  replica->OnStep(
      [&seen](const StepPlan& plan, const StepResult& result, absl::Duration took) { seen.See(plan, result, took); });
  const RankInfo& info = replica->rank().info();
  made.shape = ShapeOf(info);
  made.windowed = std::any_of(info.windows.begin(), info.windows.end(), [](int32_t window) { return window > 0; });
  LoadPlanSpec spec = request.plan;
  spec.dataset.token_high = std::min(spec.dataset.token_high, info.vocab);
  spec.dataset.token_low = std::min(spec.dataset.token_low, info.vocab / 2);
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadPlan> plan, LoadPlan::Make(spec));
  AsioLoop loop;
  EngineClient client(replica->engine(), clock, loop, client_options);
  LoadRunnerOptions options;
  options.concurrency = concurrency;
  options.stop_when_saturated = false;  // what grows without end beyond saturation is what the study is about
  LoadRunner runner(std::move(options), *plan, loop, client);
  bool interrupted = false;
  loop.OnInterrupt([&] {
    interrupted = true;
    runner.Stop("interrupted");
  });
  const absl::Duration cpu = CpuTime();
  const absl::Time began = absl::Now();
  made.run = runner.Run();
  made.run.client_cpu = CpuTime() - cpu;
  made.run.began = began;
  made.run.server = "in process";
  made.run.model = std::filesystem::path(config.model.path).filename().string();
  made.run.concurrency = concurrency;
  DescribeRun(request, *plan, &made.run);
  made.parks = replica->metrics().Total("interlace_request_parks_total");
  made.stall = replica->metrics().Total("interlace_layer_stall_seconds_total");
  made.transferred = replica->metrics().Total("interlace_transfer_bytes_total");
  replica.reset();  // the runner's thread has ended, and its last step is seen
  made.steps = seen.fit;
  if (interrupted) return absl::CancelledError("interrupted");
  return made;
}

}  // namespace interlace
