#include "cli/bench_layerkv_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/serve/load_json.h"
#include "cli/bench_ceilings.h"
#include "cli/output_file.h"
#include "cli/study_machine.h"
#include "cli/study_replica.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {
namespace {

absl::StatusOr<LayerKvOptions> StudyOf(const BenchLayerKvOptions& typed) {
  LayerKvOptions options;
  std::string policies = typed.policies;
  if (policies == "all") {
    policies = absl::StrJoin(Policies(), ",",
                             [](std::string* out, const Policy& policy) { absl::StrAppend(out, policy.name); });
  }
  ASSIGN_OR_RETURN(options.lines, ParseStudyLines(policies, typed.parked));
  ASSIGN_OR_RETURN(options.shares, ParsePositiveNumbers("--rates", typed.rates));
  std::sort(options.shares.begin(), options.shares.end());
  RETURN_IF_ERROR(CheckCount("--seeds", typed.seeds));
  RETURN_IF_ERROR(CheckCount("--calibration", typed.calibration));
  options.seeds = typed.seeds;
  options.calibration = typed.calibration;
  options.simulate = typed.simulate;
  ASSIGN_OR_RETURN(options.load, typed.load.Finish());
  ASSIGN_OR_RETURN(options.load.targets, typed.targets.Finish());
  options.first_seed = options.load.seed;
  return options;
}

int64_t Tokens(const std::vector<PlannedRequest>& requests) {
  int64_t sum = 0;
  for (const PlannedRequest& request : requests) sum += request.expected_prompt_tokens + request.max_tokens;
  return sum;
}

// Runs on an engine in this process.
class Measured {
 public:
  explicit Measured(Config config) : config_(std::move(config)) {}

  absl::StatusOr<StudyRun> Run(const StudyRequest& request) {
    Config config = config_;
    config.sched.policy = std::string(request.line.policy->name);
    config.sched.max_parked = request.line.parked;
    config.sched.max_waiting = std::max<int64_t>(config.sched.max_waiting, request.plan.requests);
    config.sched.max_queue_time = absl::ZeroDuration();  // nor does anybody wait too long
    if (request.roomy) {
      ASSIGN_OR_RETURN(const std::vector<PlannedRequest> planned, PlannedOf(request.plan));
      const int64_t blocks = Tokens(planned) / shape_.block_tokens + 2 * static_cast<int64_t>(planned.size());
      config.kv.device_bytes.value = std::max(config.kv.device_bytes.value, blocks * shape_.layers * shape_.slot_bytes);
    }
    ASSIGN_OR_RETURN(StudyRun made, RunInProcess(config, {}, request, 0));
    shape_ = made.shape;
    return made;
  }

 private:
  const Config config_;
  VirtualShape shape_;  // of the last run
};

absl::Status Write(const Config& config, const BenchLayerKvOptions& typed, const LayerKvResult& result) {
  const std::string& command = typed.command;
  if (!typed.files.json.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.files.json, LayerKvJson(result, command)));
  if (!typed.files.html.empty()) {
    const std::string page = LayerKvPage(result, StudyFacts(config, result.options.load, command));
    RETURN_IF_ERROR(WriteLoadFile(typed.files.html, page));
  }
  if (typed.runs.empty()) return absl::OkStatus();
  LoadReport report{.environment = {INTERLACE_VERSION, absl::StrCat(AvailableCores(), " x ", CpuModel()), command}};
  for (const LayerKvPoint& point : result.points) report.runs.push_back(point.measured.run);
  return WriteLoadFile(typed.runs, LoadReportJson(report));
}

}  // namespace

void BenchLayerKvOptions::AddTo(CLI::App* app) {
  app->add_option("--policies", policies, "policies to compare, or all")->capture_default_str();
  app->add_option("--parked", parked, "bounds on parked requests, for policies that park; a list, none is no bound")
      ->capture_default_str();
  app->add_option("--rates", rates, "shares of the rate that KV memory allows, which is measured first")
      ->capture_default_str();
  app->add_option("--seeds", seeds, "runs of each policy at each rate")->capture_default_str();
  app->add_option("--calibration", calibration, "requests of the bursts that find the rates")->capture_default_str();
  app->add_flag("--virtual", simulate,
                "each run also in virtual time, by steps fitted over all runs; the only way "
                "without a MODEL");
  load.AddTo(app);
  targets.AddTo(app);
  files.AddTo(app);
  app->add_option("--runs", runs, "file for all records; bench page and bench compare read it");
}

absl::Status BenchLayerKvCommand(const Config& config, const BenchLayerKvOptions& typed) {
  RETURN_IF_ERROR(typed.files.CanWrite());
  RETURN_IF_ERROR(CanWrite("--runs", typed.runs));
  ASSIGN_OR_RETURN(const LayerKvOptions options, StudyOf(typed));
  const bool real = !config.model.path.empty();
  if (!real && !options.simulate) {
    return absl::InvalidArgumentError("no MODEL to measure; give one, or --virtual for virtual time alone");
  }
  if (real && config.cluster.stages != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cluster.stages=", config.cluster.stages, ": the study runs on one; leave the setting out"));
  }
  ASSIGN_OR_RETURN(const VirtualRun base, VirtualMachine(config));
  if (!real) RETURN_IF_ERROR(CheckDevice(base.shape));
  Measured measured(config);
  const MakeStudyRun make = [&](const StudyRequest& request) {
    return real ? measured.Run(request) : RunStudyVirtually(base, request);
  };
  ASSIGN_OR_RETURN(const LayerKvResult result, RunLayerKv(options, make, real, base, PrintStudyProgress()));
  std::printf("%s%s\nKV memory allows %.3f requests/s, the cores %.3f\n\n%s\n%s",
              result.interrupted ? "interrupted: these are the runs that were made\n" : "",
              real ? config.model.path.c_str() : "in virtual time", result.kv_rate, result.cores_rate,
              FormatTable(LayerKvTable(result)).c_str(), FormatTable(LayerKvClaimTable(result)).c_str());
  return Write(config, typed, result);
}

}  // namespace interlace
