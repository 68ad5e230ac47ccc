#include "bench/study/reserve_study.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "bench/serve/load_figures.h"
#include "bench/serve/svg_chart.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "coordinator/policy/reserve.h"

namespace interlace {
namespace {

using nlohmann::ordered_json;

// Blocks of all layers that left the device before their request had ended: those of the cache leave, too, but nobody
// was swapped out for it.
double BlocksSwappedOut(const std::vector<MemoryOperation>& trace, const LoadRun& run, int32_t layers) {
  int64_t count = 0;
  for (const MemoryOperation& op : trace) {
    if (op.kind != "leave" && op.kind != MoveKindName(MoveKind::kCopyOut)) continue;
    if (op.at < run.records[static_cast<size_t>(op.request)].ended) count += int64_t{op.blocks} * op.layers;
  }
  return static_cast<double>(count) / layers;
}

// One run of a rule with one seed.
absl::StatusOr<ReserveFigures> RunOnce(const ReserveOptions& options, const std::string& rule, int32_t seed,
                                       std::vector<MemoryOperation>* trace) {
  VirtualRun setup = options.base;
  setup.policy = options.policy;
  setup.trace = trace;
  RETURN_IF_ERROR(ParseReserve(rule, &setup.options.policy));
  LoadPlanSpec plan = options.load;
  plan.seed = options.first_seed + static_cast<uint64_t>(seed);
  ASSIGN_OR_RETURN(const std::vector<PlannedRequest> planned, PlannedOf(plan));
  const VirtualOutcome outcome = RunVirtually(setup, planned);
  const LoadFigures f = FiguresOf(outcome.run);
  return ReserveFigures{.output_throughput = f.output_throughput,
                        .traffic_in = static_cast<double>(outcome.traffic.in * setup.shape.slot_bytes),
                        .swaps = outcome.parks + static_cast<double>(outcome.traffic.resumed),
                        .blocks_out = BlocksSwappedOut(*trace, outcome.run, setup.shape.layers),
                        .ttft = f.ttft.mean,
                        .e2el = f.e2el.mean,
                        .answered = f.completed(),
                        .requests = f.requests};
}

struct Job {
  ReservePoint* point;
  int32_t seed;
};

// The jobs, by threads that each take the next one.
class Jobs {
 public:
  Jobs(const ReserveOptions& options, std::vector<Job> jobs, std::vector<MemoryOperation>* trace)
      : options_(options), jobs_(std::move(jobs)), trace_(trace) {}

  absl::Status Run(const StudyProgress& progress) {
    std::vector<Thread> threads;
    for (int t = 0; t < options_.threads; ++t) threads.emplace_back("reserve", [this] { Work(); });
    const auto all = static_cast<int32_t>(jobs_.size());
    for (int32_t seen = 0; seen < all;) {
      mutex_.Lock();
      const auto more = [&] { return done_ > seen || !fault_.ok(); };
      mutex_.Await(absl::Condition(&more));
      seen = fault_.ok() ? done_ : all;
      mutex_.Unlock();
      if (progress) progress("runs in virtual time", seen, all);
    }
    for (Thread& thread : threads) thread.Join();
    return fault_;
  }

 private:
  void Work() {
    while (true) {
      size_t mine = 0;
      {
        absl::MutexLock lock(&mutex_);
        if (next_ == jobs_.size() || !fault_.ok()) return;
        mine = next_++;
      }
      const Job& job = jobs_[mine];
      std::vector<MemoryOperation> trace;
      absl::StatusOr<ReserveFigures> figures = RunOnce(options_, job.point->rule, job.seed, &trace);
      absl::MutexLock lock(&mutex_);
      fault_.Update(figures.status());
      if (figures.ok()) job.point->seeds[static_cast<size_t>(job.seed)] = *figures;
      ++done_;
      if (job.seed == 0 && job.point->rule == options_.traced) *trace_ = std::move(trace);
    }
  }

  const ReserveOptions& options_;
  const std::vector<Job> jobs_;
  std::vector<MemoryOperation>* const trace_;
  absl::Mutex mutex_;
  size_t next_ = 0;     // protected by mutex_
  int32_t done_ = 0;    // protected by mutex_
  absl::Status fault_;  // protected by mutex_
};

ordered_json PointJson(const ReservePoint& point) {
  ordered_json out = {{"rule", point.rule}, {"factor", point.factor}, {"seeds", ordered_json::array()}};
  for (const ReserveFigures& f : point.seeds) {
    out["seeds"].push_back({{"output_throughput", f.output_throughput},
                            {"traffic_in_bytes", f.traffic_in},
                            {"swap_operations", f.swaps},
                            {"blocks_out", f.blocks_out},
                            {"mean_ttft_s", f.ttft},
                            {"mean_e2el_s", f.e2el},
                            {"answered", f.answered},
                            {"requests", f.requests}});
  }
  return out;
}

std::string WithInterval(const Interval& interval, double unit, int digits) {
  const std::string mean = absl::StrFormat("%.*f", digits, interval.mean / unit);
  if (interval.low == interval.high) return mean;
  return absl::StrFormat("%s +- %.*f", mean, digits, (interval.high - interval.low) / 2 / unit);
}

}  // namespace

absl::StatusOr<ReserveResult> RunReserve(const ReserveOptions& options, const StudyProgress& progress) {
  ReserveResult result{.options = options};
  const auto seeds = static_cast<size_t>(options.seeds);
  for (const char* rule : {"none", "quantile"}) {
    result.plain.push_back({.rule = rule, .seeds = std::vector<ReserveFigures>(seeds)});
  }
  for (const ReserveSearch& search : options.searches) {
    std::vector<ReservePoint>& points = result.searches.emplace_back();
    const int steps = static_cast<int>(std::floor((search.to - search.from) / search.step + 1e-9));
    for (int i = 0; i <= steps; ++i) {
      const double factor = search.from + i * search.step;
      points.push_back({absl::StrFormat("%s:%.6g", search.rule, factor), factor, std::vector<ReserveFigures>(seeds)});
    }
  }
  std::vector<Job> jobs;
  for (int32_t seed = 0; seed < options.seeds; ++seed) {
    for (ReservePoint& point : result.plain) jobs.push_back({&point, seed});
    for (std::vector<ReservePoint>& points : result.searches) {
      for (ReservePoint& point : points) jobs.push_back({&point, seed});
    }
  }
  const bool known = options.traced.empty() || std::any_of(jobs.begin(), jobs.end(), [&](const Job& job) {
                       return job.point->rule == options.traced;
                     });
  if (!known) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--trace-rule ", options.traced, " is none of the rules that run; give none, quantile, or one such as ",
        result.searches.empty() || result.searches[0].empty() ? "share:1" : result.searches[0].back().rule));
  }
  RETURN_IF_ERROR(Jobs(options, std::move(jobs), &result.trace).Run(progress));
  return result;
}

Interval OverSeeds(const ReservePoint& point, double ReserveFigures::*field) {
  std::vector<double> values;
  for (const ReserveFigures& figures : point.seeds) values.push_back(figures.*field);
  if (values.size() > 1) return TInterval(values, 0.95);
  return {values[0], values[0], values[0]};
}

int FactorsThatDiffer(const ReserveResult& result, const std::vector<ReservePoint>& search) {
  const ReservePoint& none = result.plain[0];
  if (none.seeds.size() < 2) return 0;
  int count = 0;
  for (const ReservePoint& point : search) {
    std::vector<double> ratios;
    for (size_t s = 0; s < point.seeds.size(); ++s) {
      ratios.push_back(point.seeds[s].output_throughput / none.seeds[s].output_throughput);
    }
    const Interval interval = TInterval(ratios, 0.95);
    if (interval.low > 1 || interval.high < 1) ++count;
  }
  return count;
}

std::vector<std::vector<std::string>> ReserveTable(const ReserveResult& result, int every) {
  std::vector<std::vector<std::string>> cells = {
      {"reserve", "output tok/s", "MB in", "swap operations", "blocks out", "TTFT mean", "E2EL mean", "answered"}};
  const auto add = [&](const ReservePoint& point) {
    int64_t answered = 0, requests = 0;
    for (const ReserveFigures& f : point.seeds) {
      answered += f.answered;
      requests += f.requests;
    }
    cells.push_back({point.rule, WithInterval(OverSeeds(point, &ReserveFigures::output_throughput), 1, 1),
                     WithInterval(OverSeeds(point, &ReserveFigures::traffic_in), 1e6, 1),
                     WithInterval(OverSeeds(point, &ReserveFigures::swaps), 1, 0),
                     WithInterval(OverSeeds(point, &ReserveFigures::blocks_out), 1, 0),
                     ShortSeconds(OverSeeds(point, &ReserveFigures::ttft).mean),
                     ShortSeconds(OverSeeds(point, &ReserveFigures::e2el).mean),
                     absl::StrCat(answered, " of ", requests)});
  };
  for (const ReservePoint& point : result.plain) add(point);
  for (const std::vector<ReservePoint>& search : result.searches) {
    for (size_t i = 0; i < search.size(); i += static_cast<size_t>(every)) add(search[i]);
  }
  return cells;
}

std::string ReserveJson(const ReserveResult& result, const std::string& command) {
  ordered_json out = {{"study", "reserve"},
                      {"command", command},
                      {"policy", std::string(result.options.policy->name)},
                      {"points", ordered_json::array()}};
  for (const ReservePoint& point : result.plain) out["points"].push_back(PointJson(point));
  for (const std::vector<ReservePoint>& search : result.searches) {
    for (const ReservePoint& point : search) out["points"].push_back(PointJson(point));
  }
  return out.dump(1) + "\n";
}

std::string TraceCsv(const std::vector<MemoryOperation>& trace) {
  std::string out = "at_s,operation,request,first_block,blocks,layers\n";
  for (const MemoryOperation& op : trace) {
    absl::StrAppendFormat(&out, "%.6f,%s,%d,%d,%d,%d\n", absl::ToDoubleSeconds(op.at), op.kind, op.request, op.first,
                          op.blocks, op.layers);
  }
  return out;
}

}  // namespace interlace
