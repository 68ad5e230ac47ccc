#include "coordinator/skip_index/hit_threshold.h"

#include <algorithm>
#include <cmath>

namespace interlace {
namespace {

constexpr double kLeastGood = 0.5;  // what is less likely to be good is not counted on, though some of it might be
constexpr double kSteep = 40;       // where good and bad uses do not overlap, no fit says how steep it is between them

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The z for which a normal variable lies below it with chance p. Source: Abramowitz and Stegun, 26.2.23 (error < 5e-4).
double NormalQuantile(double p) {
  const bool low = p < 0.5;
  const double t = std::sqrt(-2 * std::log(low ? p : 1 - p));
  const double z =
      t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
  return low ? -z : z;
}

// Of a threshold between uses that do not overlap, by their number: 0.0354 with six, never below 0.01.
double SeparableVariance(int32_t count) { return std::max(0.01, 0.0354 * HitThreshold::kLeast / count); }

}  // namespace

void HitThreshold::Note(HitSample sample) {
  sample.likeness = std::clamp(sample.likeness, 0.0F, 1.0F);
  if (count_ == kMost) {
    std::move(samples_.begin() + 1, samples_.end(), samples_.begin());
    --count_;
  }
  samples_[count_++] = sample;
}

int32_t HitThreshold::good() const {
  const auto all = samples();
  return static_cast<int32_t>(std::count_if(all.begin(), all.end(), [](const HitSample& s) { return s.good; }));
}

HitThreshold::Fit HitThreshold::FitSeparable(double worst_good, double best_bad) const {
  const double variance = SeparableVariance(count_);
  if (worst_good > 1) return {1, variance, kSteep};  // none was good
  return {(worst_good + std::max(0.0, best_bad)) / 2, variance,
          kSteep};  // any prompt of the scope is taken for a bad one
}

HitThreshold::Fit HitThreshold::FitSamples() const {
  double worst_good = 2, best_bad = -1;
  for (const HitSample& s : samples()) {
    if (s.good) worst_good = std::min(worst_good, double{s.likeness});
    if (!s.good) best_bad = std::max(best_bad, double{s.likeness});
  }
  if (best_bad < worst_good) return FitSeparable(worst_good, best_bad);
  // Logistic regression by Newton's method: P = sigmoid(a + g x).
  double a = 0, g = 1;
  double haa = 0, hag = 0, hgg = 0;
  for (int step = 0; step < 30; ++step) {
    double da = 0, dg = 0;
    haa = hgg = 1e-6;
    hag = 0;
    for (const HitSample& s : samples()) {
      const double p = Sigmoid(a + g * s.likeness), w = p * (1 - p), e = (s.good ? 1 : 0) - p;
      da += e;
      dg += e * s.likeness;
      haa += w;
      hag += w * s.likeness;
      hgg += w * s.likeness * s.likeness;
    }
    const double det = std::max(1e-12, haa * hgg - hag * hag);
    const double a_step = std::clamp((hgg * da - hag * dg) / det, -10.0, 10.0);
    const double g_step = std::clamp((haa * dg - hag * da) / det, -20.0, 20.0);
    a += a_step;
    g += g_step;
    if (std::abs(a_step) + std::abs(g_step) < 1e-6) break;
  }
  Fit fit;
  fit.steepness = std::max(1e-6, g);
  fit.threshold = -a / fit.steepness;
  // Delta method: the gradient of -a/g by (a, g), around the inverse Hessian.
  const double det = std::max(1e-12, haa * hgg - hag * hag);
  const double ga = -1 / fit.steepness, gg = a / (fit.steepness * fit.steepness);
  fit.variance = std::max(0.0, (ga * ga * hgg - 2 * ga * gg * hag + gg * gg * haa) / det);
  fit.threshold = std::clamp(fit.threshold, 0.0, 1.0);
  return fit;
}

double HitThreshold::TrialChance(double likeness) const {
  if (count_ < kLeast) return 1;
  const Fit fit = FitSamples();
  const double deviation = std::sqrt(fit.variance);
  double least = 1;
  constexpr int kSteps = 50;
  for (int i = 1; i < kSteps; ++i) {
    const double doubt = static_cast<double>(i) / kSteps;
    const double threshold = std::clamp(fit.threshold + NormalQuantile(1 - doubt) * deviation, 0.0, 1.0);
    const double good = (1 - doubt) * Sigmoid(fit.steepness * (likeness - threshold));
    if (good >= 1 - kMostWrong) return 0;
    if (good >= kLeastGood) least = std::min(least, 1 - kMostWrong / (1 - good));
  }
  return std::clamp(least, 0.0, 1.0);
}

}  // namespace interlace
