#include "bench/serve/arrivals.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace interlace {
namespace {

// Gaps are gamma distributed; with shape 1 that is a Poisson process.
class GammaArrivals final : public Arrivals {
 public:
  GammaArrivals(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy)
      : shape_(spec.process == "gamma" ? spec.burstiness : 1), rate_(spec.rate), draws_(std::move(entropy)) {}
  absl::Duration Next() override {
    at_ += shape_ == 1 ? draws_.Exponential(1 / rate_) : draws_.Gamma(shape_, 1 / (rate_ * shape_));
    return absl::Seconds(at_);
  }

 private:
  const double shape_, rate_;
  Draws draws_;
  double at_ = 0;  // seconds
};

class ConstantArrivals final : public Arrivals {
 public:
  ConstantArrivals(const ArrivalSpec& spec, std::unique_ptr<Entropy>) : rate_(spec.rate) {}
  absl::Duration Next() override { return absl::Seconds(static_cast<double>(count_++) / rate_); }

 private:
  const double rate_;
  int64_t count_ = 0;
};

// A Poisson process whose rate moves from `rate` to `rate_end` on a straight line, and stays there. Its expected count
// up to t is E(t) = rate*t + slope*t*t/2; arrivals are where E reaches the sums of unit exponentials.
class RampArrivals final : public Arrivals {
 public:
  RampArrivals(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy)
      : rate_(spec.rate),
        rate_end_(spec.rate_end),
        length_(absl::ToDoubleSeconds(spec.ramp)),
        slope_((spec.rate_end - spec.rate) / length_),
        draws_(std::move(entropy)) {}
  absl::Duration Next() override {
    expected_ += draws_.Exponential(1);
    const double in_ramp = (rate_ + rate_end_) / 2 * length_;
    if (expected_ >= in_ramp) return absl::Seconds(length_ + (expected_ - in_ramp) / rate_end_);
    const double root = std::sqrt(std::max(0.0, rate_ * rate_ + 2 * slope_ * expected_));
    return absl::Seconds(2 * expected_ / (rate_ + root));  // the solution that is stable for any slope
  }

 private:
  const double rate_, rate_end_, length_, slope_;
  Draws draws_;
  double expected_ = 0;
};

// All at once.
class BurstArrivals final : public Arrivals {
 public:
  BurstArrivals(const ArrivalSpec&, std::unique_ptr<Entropy>) {}
  absl::Duration Next() override { return absl::ZeroDuration(); }
};

template <typename Kind>
std::unique_ptr<Arrivals> Make(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy) {
  return std::make_unique<Kind>(spec, std::move(entropy));
}

struct Row {
  const char* name;
  std::unique_ptr<Arrivals> (*make)(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy);
};
constexpr Row kProcesses[] = {
    {"poisson", &Make<GammaArrivals>}, {"gamma", &Make<GammaArrivals>}, {"constant", &Make<ConstantArrivals>},
    {"ramp", &Make<RampArrivals>},     {"burst", &Make<BurstArrivals>},
};

absl::Status Positive(const char* flag, double value, const char* way_out) {
  if (value > 0 && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is not above 0; ", way_out));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Arrivals>> MakeArrivals(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy) {
  absl::Status status;
  if (spec.process != "burst") status = Positive("--rate", spec.rate, "give requests per second, such as --rate 4");
  if (status.ok() && spec.process == "gamma") {
    status = Positive("--burstiness", spec.burstiness, "1 is a Poisson process, 0.25 comes in bursts");
  }
  if (status.ok() && spec.process == "ramp") {
    status = Positive("--rate-end", spec.rate_end, "a ramp leads from --rate to --rate-end requests per second");
    if (status.ok()) {
      status = Positive("--ramp", absl::ToDoubleSeconds(spec.ramp), "say how long the rate rises, such as --ramp 60s");
    }
  }
  if (!status.ok()) return status;
  std::vector<std::string> names;
  for (const Row& row : kProcesses) {
    if (spec.process == row.name) return row.make(spec, std::move(entropy));
    names.push_back(row.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("--arrivals ", spec.process, " is not known; one of ",
                                                 absl::StrJoin(names, ", "), ", trace, closed"));
}

std::string DescribeArrivals(const ArrivalSpec& spec) {
  if (spec.process == "gamma") return absl::StrCat("gamma ", spec.burstiness);
  if (spec.process == "ramp") {
    return absl::StrCat("ramp ", spec.rate, "/s to ", spec.rate_end, "/s in ", absl::FormatDuration(spec.ramp));
  }
  return spec.process;
}

}  // namespace interlace
