#include "bench/serve/load_capacity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_interval.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int kMostLateRuns = 3;  // of the client, before any rate held
constexpr double kNone = std::numeric_limits<double>::infinity();

absl::Status Check(const CapacityOptions& o) {
  const auto wrong = [](const char* field, double value, const char* must) {
    return absl::InvalidArgumentError(absl::StrCat(field, " ", value, ": must be ", must));
  };
  if (!(o.attainment > 0 && o.attainment <= 1)) return wrong("attainment", o.attainment, "above 0 and at most 1");
  if (!(o.least_rate > 0)) return wrong("least rate", o.least_rate, "above 0");
  if (!(o.most_rate >= o.least_rate && o.most_rate < kNone))
    return wrong("most rate", o.most_rate, "finite and at least the least");
  if (!(o.start_rate >= o.least_rate && o.start_rate <= o.most_rate)) {
    return wrong("start rate", o.start_rate, "between the least and the most");
  }
  if (!(o.growth > 1)) return wrong("growth", o.growth, "above 1");
  if (!(o.resolution > 0)) return wrong("resolution", o.resolution, "above 0");
  if (!(o.confidence > 0 && o.confidence < 1)) return wrong("confidence", o.confidence, "between 0 and 1");
  if (o.seeds.empty()) return absl::InvalidArgumentError("seeds: at least one is needed");
  return absl::OkStatus();
}

std::string Rate(double rate) { return absl::StrFormat("%.4g", rate); }

double GeometricMean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += std::log(v);
  return std::exp(sum / static_cast<double>(values.size()));
}

// The bracket of one seed and where to look next.
class Search {
 public:
  // `stride` is the first step of growth; it grows until it is `growth`.
  Search(const CapacityOptions& options, double start, double stride)
      : options_(options), rate_(std::clamp(start, options.least_rate, options.most_rate)), stride_(stride) {}

  double rate() const { return rate_; }
  double low() const { return low_; }
  double high() const { return high_; }
  bool done() const {
    if (low_ >= options_.most_rate || high_ <= options_.least_rate) return true;
    return low_ > 0 && high_ < kNone && high_ / low_ - 1 <= options_.resolution;
  }
  void Record(bool holds) {
    (holds ? low_ : high_) = rate_;
    if (done()) return;
    if (high_ == kNone) {
      rate_ = std::min(low_ * stride_, options_.most_rate);
    } else if (low_ == 0) {
      rate_ = std::max(high_ / stride_, options_.least_rate);
    } else {
      rate_ = std::sqrt(low_ * high_);
    }
    stride_ = std::min(stride_ * stride_, options_.growth);
  }
  std::string Next() const {
    if (low_ >= options_.most_rate) return "the most that was asked for";
    if (high_ <= options_.least_rate) return "the least that was asked for";
    if (done()) return absl::StrCat("found between ", Rate(low_), " and ", Rate(high_));
    if (high_ == kNone) return absl::StrCat("up to ", Rate(rate_));
    if (low_ == 0) return absl::StrCat("down to ", Rate(rate_));
    return absl::StrCat(Rate(rate_), " is next, between ", Rate(low_), " and ", Rate(high_));
  }

 private:
  const CapacityOptions& options_;
  double rate_;
  double stride_;
  double low_ = 0, high_ = kNone;
};

std::string Seen(const LoadFigures& f, double asked) {
  std::string seen = absl::StrFormat("%.4g %% of %d requests met their targets, asked %.4g %%", 100 * f.good_share,
                                     f.judged, 100 * asked);
  if (f.over_saturated) absl::StrAppend(&seen, "; stopped as over-saturated");
  if (!f.valid) absl::StrAppend(&seen, "; ", f.invalid_because);
  return seen;
}

// The rate over all seeds and its interval.
void Conclude(const CapacityOptions& options, CapacityResult* result) {
  std::vector<double> lows, highs, logs;
  for (const SeedCapacity& seed : result->seeds) {
    if (seed.low == 0) {
      result->rate = result->low = 0;
      result->high = seed.high;
      if (result->stopped_because.empty()) {
        result->stopped_because = absl::StrCat("seed ", seed.seed, ": not even ", Rate(seed.high), " requests/s holds");
      }
      return;
    }
    lows.push_back(seed.low);
    highs.push_back(seed.high);
    logs.push_back(std::log(seed.low));
  }
  result->rate = result->low = GeometricMean(lows);
  result->high = GeometricMean(highs);
  if (logs.size() >= 2) {
    const Interval interval = TInterval(logs, options.confidence);
    result->low = std::min(result->low, std::exp(interval.low));
    result->high = std::max(result->high, std::exp(interval.high));
  }
}

}  // namespace

absl::StatusOr<CapacityResult> FindCapacity(const CapacityOptions& options, const CapacityRun& run,
                                            const CapacityProgress& progress) {
  RETURN_IF_ERROR(Check(options));
  CapacityResult result;
  for (const uint64_t seed : options.seeds) {
    std::vector<double> found;
    for (const SeedCapacity& earlier : result.seeds) {
      if (earlier.low > 0) found.push_back(earlier.low);
    }
    // Another seed's capacity is near: small steps from there.
    Search search(options, found.empty() ? options.start_rate : GeometricMean(found),
                  found.empty() ? options.growth : std::min(options.growth, 1 + 2 * options.resolution));
    double late_at = 0;  // the smallest failing rate, if the client was too late there to blame the server
    int late_in_a_row = 0;
    while (!search.done() && late_in_a_row < kMostLateRuns) {
      const double rate = search.rate();
      ASSIGN_OR_RETURN(const LoadFigures f, run(rate, seed));
      if (!f.has_targets || f.judged == 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            "at ", Rate(rate), " requests/s: ",
            f.has_targets ? "no request was judged" : "no request has a target; give a TTFT, a TPOT, ..."));
      }
      CapacityStep step = {.seed = seed, .rate = rate, .share = f.good_share};
      step.holds = !f.over_saturated && f.good_share >= options.attainment;
      // Without any first token it is the server that failed, not the client that was late.
      const bool late = !step.holds && !f.valid && f.ttft.count > 0;
      if (!step.holds) late_at = late ? rate : 0;
      late_in_a_row = late && search.low() == 0 ? late_in_a_row + 1 : 0;
      search.Record(step.holds);
      step.why = absl::StrCat(Seen(f, options.attainment),
                              step.holds ? ": holds; "
                              : late     ? ": fails, which says nothing about the server; "
                                         : ": fails; ",
                              late_in_a_row < kMostLateRuns ? search.Next() : "given up");
      if (progress) progress(step);
      result.steps.push_back(std::move(step));
    }
    if (late_at > 0) {
      result.at_least = true;
      result.stopped_because =
          absl::StrCat("seed ", seed, ": at ", Rate(late_at), " requests/s the client itself is too late to tell");
    } else if (search.high() == kNone) {
      result.at_least = true;
      result.stopped_because = absl::StrCat("seed ", seed, ": ", Rate(search.low()), " requests/s, the most, holds");
    }
    result.seeds.push_back({seed, search.low(), search.high()});
  }
  Conclude(options, &result);
  return result;
}

}  // namespace interlace
