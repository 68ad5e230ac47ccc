#include "cli/bench_ablation_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_json.h"
#include "bench/study/ablation_study.h"
#include "cli/bench_engine.h"
#include "cli/bench_profile.h"
#include "cli/study_replica.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int32_t kProfileSteps = 16;

double Micros(absl::Duration time, int steps) { return absl::ToDoubleMicroseconds(time) / steps; }

// Where a decode step's time goes, in the middle of the answers of the load.
absl::StatusOr<AblationProfile> Profile(const Config& config, const AblationOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<PlannedRequest> planned, PlannedOf(options.load));
  int64_t positions = 0;
  for (const PlannedRequest& request : planned) positions += request.expected_prompt_tokens + request.max_tokens / 2;
  AblationProfile out{.batch = options.batch};
  out.context = static_cast<int32_t>(positions / static_cast<int64_t>(planned.size()));
  BenchEngine::Options engine_options{.config = config};
  engine_options.kv_tokens = int64_t{options.batch} * (out.context + 2 * kProfileSteps);
  engine_options.sequences = options.batch;
  RealClock clock;
  FaultPoints faults;
  ASSIGN_OR_RETURN(const std::unique_ptr<BenchEngine> engine,
                   BenchEngine::Create(engine_options, clock, faults, [](int64_t, int64_t) {}));
  RETURN_IF_ERROR(engine->Decode(options.batch, out.context, kProfileSteps).status());  // warms up
  std::vector<OpCall> calls;
  engine->backend().Time(clock, &calls);
  const absl::Status status = engine->Decode(options.batch, out.context, kProfileSteps).status();
  engine->backend().Off();
  RETURN_IF_ERROR(status);
  const StepProfile profile = SummariseCalls(calls, engine->step_times(), engine->spec().layers);
  out.total = Micros(profile.total, profile.steps);
  out.embedding = Micros(profile.embedding, profile.steps);
  out.head = Micros(profile.head, profile.steps);
  out.sampler = Micros(profile.sampler, profile.steps);
  out.outside = Micros(profile.total - profile.kernels, profile.steps);
  for (const absl::Duration layer : profile.layers) out.layers.push_back(Micros(layer, profile.steps));
  return out;
}

absl::StatusOr<StudyRun> RunMode(const Config& given, const AblationMode& mode, const LoadPlanSpec& load) {
  Config config = given;
  config.sched.policy = mode.policy;
  config.sched.max_waiting = std::max<int64_t>(config.sched.max_waiting, load.requests);
  config.sched.max_queue_time = absl::ZeroDuration();  // nor does anybody wait too long
  StudyRequest request;
  request.line.label = mode.name;
  request.plan = load;
  request.plan.arrivals.process = "closed";
  ASSIGN_OR_RETURN(request.line.policy, FindPolicy(mode.policy));
  return RunInProcess(config, mode.client, request, mode.concurrency);
}

}  // namespace

BenchAblationOptions::BenchAblationOptions() {
  load.prompt = "32";
  load.answer = "uniform:8:32";
  load.requests = 32;
}

void BenchAblationOptions::AddTo(CLI::App* app) {
  app->add_option("--batch", batch, "requests open at once, where it is not one")->capture_default_str();
  app->add_option("--rounds", rounds, "runs of each row")->capture_default_str();
  app->add_option("--groups", groups, "beginnings that prompts share")->capture_default_str();
  app->add_option("--shared", shared, "tokens of such a beginning; --prompt tokens follow it")->capture_default_str();
  load.AddTo(app);
  files.AddTo(app);
}

absl::Status BenchAblationCommand(const Config& config, const BenchAblationOptions& typed) {
  RETURN_IF_ERROR(typed.files.CanWrite());
  AblationOptions options;
  RETURN_IF_ERROR(CheckCount("--batch", typed.batch));
  RETURN_IF_ERROR(CheckCount("--rounds", typed.rounds));
  options.batch = typed.batch;
  options.rounds = typed.rounds;
  ASSIGN_OR_RETURN(options.load, typed.load.Finish());
  options.load.dataset.kind = "prefix";
  options.load.dataset.groups = typed.groups;
  options.load.dataset.shared_tokens = typed.shared;
  const auto run = [&](const AblationMode& mode, const LoadPlanSpec& load) { return RunMode(config, mode, load); };
  ASSIGN_OR_RETURN(AblationResult result, RunAblation(options, run, PrintStudyProgress()));
  if (!result.interrupted) {
    ASSIGN_OR_RETURN(result.profile, Profile(config, options));
  }
  std::printf("%s%s\n%s", result.interrupted ? "interrupted: these are the rounds that are whole\n" : "",
              config.model.path.c_str(), FormatTable(AblationTable(result)).c_str());
  if (!result.profile.layers.empty()) {
    std::printf("\na step of %d streams at position %d: %.0f us\n%s", result.profile.batch, result.profile.context,
                result.profile.total, FormatTable(AblationProfileTable(result.profile)).c_str());
  }
  if (!typed.files.json.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.files.json, AblationJson(result, typed.command)));
  if (typed.files.html.empty()) return absl::OkStatus();
  auto facts = StudyFacts(config, options.load, typed.command);
  facts.emplace_back("prompts", absl::StrCat(typed.groups, " beginnings of ", typed.shared, " tokens, each with ",
                                             typed.load.prompt, " more"));
  return WriteLoadFile(typed.files.html, AblationPage(result, facts));
}

}  // namespace interlace
