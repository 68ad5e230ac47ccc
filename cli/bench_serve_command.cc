#include "cli/bench_serve_command.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_figures.h"
#include "bench/serve/load_json.h"
#include "bench/serve/load_page.h"
#include "bench/serve/load_runner.h"
#include "cli/bench_ceilings.h"
#include "cli/bench_serve_table.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {
namespace {

absl::Duration CpuTime() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

// Each open request takes a descriptor.
void AllowManyConnections() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A line that is drawn over, on the terminal that standard error is; nothing elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}
  ~ProgressLine() {
    if (shown_) std::fprintf(stderr, "\r\x1b[K");
  }
  void Show(const LoadProgress& progress) {
    static const bool on = isatty(STDERR_FILENO) == 1;
    if (!on) return;
    shown_ = true;
    const double seconds = absl::ToDoubleSeconds(progress.elapsed);
    const double since = absl::ToDoubleSeconds(progress.elapsed - looked_);
    if (since >= 1) {
      rate_ = static_cast<double>(progress.tokens - tokens_) / since;
      tokens_ = progress.tokens;
      looked_ = progress.elapsed;
    }
    std::fprintf(stderr, "\r\x1b[K%s%.0f s  sent %d  open %d  done %d  shed %d  failed %d  %.0f tok/s  TTFT p50 %s",
                 what_.c_str(), seconds, static_cast<int>(progress.sent), static_cast<int>(progress.open),
                 static_cast<int>(progress.ok), static_cast<int>(progress.shed), static_cast<int>(progress.failed),
                 rate_, HumanSeconds(absl::ToDoubleSeconds(progress.ttft_p50)).c_str());
    std::fflush(stderr);
  }

 private:
  const std::string what_;
  bool shown_ = false;
  int64_t tokens_ = 0;
  absl::Duration looked_;
  double rate_ = 0;  // tokens/s, over the last second
};

// The runs of one command.
class LoadBench {
 public:
  explicit LoadBench(BenchServeOptions options) : options_(std::move(options)) {
    options_.client.name = absl::StrCat("bench-", absl::Hex(absl::ToUnixMicros(absl::Now())));
  }

  absl::StatusOr<LoadRun> Run(double rate, uint64_t seed) {
    LoadPlanSpec plan = options_.plan;
    plan.seed = seed;
    if (rate > 0) plan.arrivals.rate = rate;
    // A rerun with the same seed asks the same questions in other tokens: the cache of the server knows none of them.
    plan.dataset.salt = absl::StrCat(runs_);
    const std::string what = rate > 0 ? absl::StrCat(rate, "/s seed ", seed, ": ") : absl::StrCat("seed ", seed, ": ");
    return RunPlan(plan, options_.concurrency, what);
  }

  absl::Status WarmUp() {
    if (options_.warmup <= 0) return absl::OkStatus();
    LoadPlanSpec plan = options_.plan;
    plan.seed = options_.plan.seed + 1000000;  // other requests than those of the runs
    plan.dataset.salt = "warmup";
    plan.requests = options_.warmup;
    plan.duration = absl::ZeroDuration();
    plan.cancel_percent = 0;
    plan.arrivals.process = "closed";
    ASSIGN_OR_RETURN(const LoadRun run, RunPlan(plan, std::min(options_.warmup, 8), "warm-up: "));
    for (const RequestRecord& record : run.records) {
      if (record.outcome == LoadOutcome::kOk) return absl::OkStatus();
    }
    if (interrupted_ || run.records.empty()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("none of the ", run.records.size(),
                                               " warm-up requests was answered: ", run.records.front().error));
  }

  bool interrupted() const { return interrupted_; }

 private:
  absl::StatusOr<LoadRun> RunPlan(const LoadPlanSpec& spec, int32_t concurrency, const std::string& what) {
    ASSIGN_OR_RETURN(const std::unique_ptr<LoadPlan> plan, LoadPlan::Make(spec));
    AsioLoop loop;
    LoadClientOptions client_options = options_.client;
    absl::StrAppend(&client_options.name, "-", runs_++);
    ASSIGN_OR_RETURN(const std::unique_ptr<LoadClient> client, MakeLoadClient(options_.protocol, client_options, loop));
    ASSIGN_OR_RETURN(options_.client.model, client->Prepare());
    ProgressLine line(what);
    LoadRunnerOptions runner_options;
    runner_options.concurrency = concurrency;
    runner_options.duration = spec.duration;
    runner_options.stop_when_saturated = options_.stop_when_saturated;
    runner_options.on_progress = [&line](const LoadProgress& progress) { line.Show(progress); };
    LoadRunner runner(std::move(runner_options), *plan, loop, *client);
    loop.OnInterrupt([&] {
      interrupted_ = true;
      runner.Stop("interrupted");
    });
    const absl::Duration cpu = CpuTime();
    const absl::Time began = absl::Now();
    LoadRun run = runner.Run();
    run.client_cpu = CpuTime() - cpu;
    run.began = began;
    run.label = options_.label;
    run.server = options_.client.url;
    run.model = options_.client.model;
    run.dataset = plan->dataset_description();
    run.arrivals = plan->arrivals_description();
    const std::string& process = spec.arrivals.process;
    const bool steady = process == "poisson" || process == "gamma" || process == "constant";
    if (steady) run.offered_rate = spec.arrivals.rate;
    run.concurrency = concurrency;
    run.seed = spec.seed;
    return run;
  }

  BenchServeOptions options_;
  int64_t runs_ = 0;
  bool interrupted_ = false;
};

absl::Status WriteFiles(const BenchServeOptions& options, const LoadReport& report) {
  if (!options.json.empty()) RETURN_IF_ERROR(WriteLoadFile(options.json, LoadReportJson(report)));
  if (!options.html.empty()) RETURN_IF_ERROR(WriteLoadFile(options.html, LoadPage(report)));
  if (!options.csv.empty()) RETURN_IF_ERROR(WriteLoadFile(options.csv, LoadCsv(report.runs)));
  if (!options.jsonl.empty()) {
    std::string lines;
    for (const LoadRun& run : report.runs) lines += RequestJsonLines(run);
    RETURN_IF_ERROR(WriteLoadFile(options.jsonl, lines));
  }
  return absl::OkStatus();
}

// An error where nobody was answered: a script must not take that for a result.
absl::Status AnyAnswered(const std::vector<LoadRun>& runs) {
  const RequestRecord* sample = nullptr;
  for (const LoadRun& run : runs) {
    for (const RequestRecord& record : run.records) {
      if (record.outcome == LoadOutcome::kOk || record.outcome == LoadOutcome::kCancelled) return absl::OkStatus();
      sample = &record;
    }
  }
  if (sample == nullptr)
    return absl::FailedPreconditionError("no request was sent; give --requests or a longer --duration");
  return absl::UnavailableError(absl::StrCat("not one request was answered; the last ended as ",
                                             LoadOutcomeName(sample->outcome), ": ", sample->error));
}

}  // namespace

absl::Status BenchServeCommand(BenchServeOptions options) {
  RETURN_IF_ERROR(CanWrite("--json", options.json));
  RETURN_IF_ERROR(CanWrite("--jsonl", options.jsonl));
  RETURN_IF_ERROR(CanWrite("--csv", options.csv));
  RETURN_IF_ERROR(CanWrite("--html", options.html));
  AllowManyConnections();
  LoadReport report;
  report.environment = {INTERLACE_VERSION, absl::StrCat(AvailableCores(), " x ", CpuModel()), options.command};
  LoadBench bench(options);
  RETURN_IF_ERROR(bench.WarmUp());
  if (options.find_capacity) {
    CapacityOptions search = options.capacity;
    search.seeds.clear();
    for (int32_t s = 0; s < options.seeds; ++s) search.seeds.push_back(options.plan.seed + static_cast<uint64_t>(s));
    if (!options.rates.empty()) search.start_rate = options.rates.front();
    const auto run = [&](double rate, uint64_t seed) -> absl::StatusOr<LoadFigures> {
      ASSIGN_OR_RETURN(LoadRun made, bench.Run(rate, seed));
      report.runs.push_back(std::move(made));
      if (bench.interrupted()) return absl::CancelledError("interrupted");
      return FiguresOf(report.runs.back());
    };
    absl::StatusOr<CapacityResult> found =
        FindCapacity(search, run, [](const CapacityStep& step) { PrintCapacityStep(step); });
    if (!found.ok() && !bench.interrupted()) return found.status();
    if (found.ok()) report.capacity = *std::move(found);
  } else {
    const std::vector<double> rates = options.rates.empty() ? std::vector<double>{0} : options.rates;
    for (double rate : rates) {
      for (int32_t s = 0; s < options.seeds && !bench.interrupted(); ++s) {
        ASSIGN_OR_RETURN(LoadRun made, bench.Run(rate, options.plan.seed + static_cast<uint64_t>(s)));
        report.runs.push_back(std::move(made));
      }
    }
  }
  std::printf("%s", LoadRunsText(report.runs).c_str());
  if (report.capacity) std::printf("%s", CapacityText(*report.capacity).c_str());
  RETURN_IF_ERROR(WriteFiles(options, report));
  return AnyAnswered(report.runs);
}

}  // namespace interlace
