#include "bench/study/layerkv_study.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr uint64_t kCalibrationSeed = 1000003;

class Study {
 public:
  Study(const LayerKvOptions& options, const MakeStudyRun& make, const StudyProgress& progress)
      : options_(options), make_(make), progress_(progress) {
    all_ = 2 + static_cast<int32_t>(options.lines.size() * options.shares.size()) * options.seeds;
  }

  absl::Status Calibrate(LayerKvResult* result) {
    ASSIGN_OR_RETURN(const Policy* const fcfs, FindPolicy("fcfs"));
    for (const bool roomy : {false, true}) {
      StudyRequest burst;
      burst.line.label = "fcfs";
      burst.line.policy = fcfs;
      burst.plan = options_.load;
      burst.roomy = roomy;
      burst.plan.seed = kCalibrationSeed;
      burst.plan.requests = options_.calibration;
      burst.plan.arrivals.process = "burst";
      ASSIGN_OR_RETURN(const StudyRun run,
                       Make(burst, roomy ? "the rate that the cores allow" : "the rate that KV memory allows"));
      if (run.windowed && options_.simulate) {
        return absl::InvalidArgumentError(
            "--virtual knows no windows, and layers of this model have some; leave it out, or take another model");
      }
      const LoadFigures figures = FiguresOf(run.run);
      if (figures.completed() < figures.requests || figures.request_throughput <= 0) {
        return absl::FailedPreconditionError(
            absl::StrCat("only ", figures.completed(), " of ", figures.requests,
                         " requests of the burst that finds the rate were answered; the first that was not: ", Why(run),
                         "; raise --device-kv or --host-kv, or shorten --prompt and --answer"));
      }
      (roomy ? result->cores_rate : result->kv_rate) = figures.request_throughput;
    }
    return absl::OkStatus();
  }

  absl::Status RunAll(LayerKvResult* result) {
    for (int32_t s = 0; s < options_.seeds; ++s) {
      for (size_t share = 0; share < options_.shares.size(); ++share) {
        for (size_t i = 0; i < options_.lines.size(); ++i) {
          const size_t line = (i + static_cast<size_t>(s) + share) % options_.lines.size();
          RETURN_IF_ERROR(RunOne(line, share, options_.first_seed + static_cast<uint64_t>(s), result));
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<StudyRun> Make(const StudyRequest& request, const std::string& what) {
    if (progress_) progress_(what, done_, all_);
    ++done_;
    return make_(request);
  }

  absl::Status RunOne(size_t line, size_t share, uint64_t seed, LayerKvResult* result) {
    StudyRequest request{.line = options_.lines[line], .plan = options_.load};
    request.plan.seed = seed;
    request.plan.arrivals.rate = options_.shares[share] * result->kv_rate;
    ASSIGN_OR_RETURN(StudyRun run, Make(request, absl::StrFormat("seed %d, rate %.2f, %s", seed, options_.shares[share],
                                                                 request.line.label)));
    LayerKvPoint point{.line = line, .share = share, .seed = seed, .measured = std::move(run)};
    point.figures = FiguresOf(point.measured.run);
    for (RequestRecord& record : point.measured.run.records) {
      const uint64_t hash = AnswerHash(record);
      record.text.clear();
      if (hash == 0) continue;
      ++point.compared;
      const auto [known, first] = answers_.try_emplace(std::pair(seed, record.index), hash);
      if (known->second == hash) ++point.same;
    }
    result->points.push_back(std::move(point));
    return absl::OkStatus();
  }

  static std::string Why(const StudyRun& run) {
    for (const RequestRecord& record : run.run.records) {
      if (record.outcome != LoadOutcome::kOk) return record.error;
    }
    return "";
  }

  const LayerKvOptions& options_;
  const MakeStudyRun& make_;
  const StudyProgress& progress_;
  int32_t done_ = 0, all_ = 0;
  absl::flat_hash_map<std::pair<uint64_t, int64_t>, uint64_t> answers_;  // by seed and request
};

// Each measured run once more, by the law of all of them, on a machine as fast as it was during that run.
absl::Status Simulate(const VirtualRun& base, LayerKvResult* result) {
  LawFit all;
  for (const LayerKvPoint& point : result->points) all.Merge(point.measured.steps);
  if (all.steps() == 0) return absl::OkStatus();
  const double link = result->law.link;
  result->law = all.Law();
  result->law.link = link;
  for (LayerKvPoint& point : result->points) {
    point.slowness = point.measured.steps.Slowness(result->law);
    VirtualRun setup = base;
    setup.shape = point.measured.shape;
    setup.law = Slowed(result->law, point.slowness);
    StudyRequest request{.line = result->options.lines[point.line], .plan = result->options.load};
    request.plan.seed = point.seed;
    request.plan.arrivals.rate = result->options.shares[point.share] * result->kv_rate;
    ASSIGN_OR_RETURN(const StudyRun run, RunStudyVirtually(setup, request));
    point.simulated = FiguresOf(run.run);
    point.simulated_stall = run.stall;
    point.simulated_transferred = run.transferred;
  }
  return absl::OkStatus();
}

}  // namespace

const LayerKvPoint* LayerKvResult::Find(size_t line, size_t share, uint64_t seed) const {
  for (const LayerKvPoint& point : points) {
    if (point.line == line && point.share == share && point.seed == seed) return &point;
  }
  return nullptr;
}

std::vector<const LayerKvPoint*> LayerKvResult::At(size_t line, size_t share) const {
  std::vector<const LayerKvPoint*> out;
  for (const LayerKvPoint& point : points) {
    if (point.line == line && point.share == share) out.push_back(&point);
  }
  return out;
}

std::optional<size_t> LayerKvResult::LineOf(absl::string_view policy) const {
  for (size_t line = 0; line < options.lines.size(); ++line) {
    if (options.lines[line].policy->name == policy) return line;
  }
  return std::nullopt;
}

absl::StatusOr<LayerKvResult> RunLayerKv(const LayerKvOptions& options, const MakeStudyRun& make, bool real,
                                         const VirtualRun& base, const StudyProgress& progress) {
  LayerKvResult result{.options = options, .real = real, .law = base.law};
  Study study(options, make, progress);
  RETURN_IF_ERROR(study.Calibrate(&result));
  const absl::Status ran = study.RunAll(&result);
  result.interrupted = absl::IsCancelled(ran);
  if (!result.interrupted) RETURN_IF_ERROR(ran);
  if (real && options.simulate) RETURN_IF_ERROR(Simulate(base, &result));
  return result;
}

}  // namespace interlace
