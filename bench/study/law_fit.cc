#include "bench/study/law_fit.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"

namespace interlace {
namespace {

constexpr int kMostSweeps = 20000;  // of coordinate descent
constexpr double kSettled = 1e-10;  // relative change of a sweep

}  // namespace

LawFit::Terms LawFit::TermsOf(const StepWork& work, double bytes) {
  return {1,
          static_cast<double>(work.rows),
          static_cast<double>(std::max<int64_t>(0, work.rows - MachineLaw::kKnee)),
          static_cast<double>(work.context),
          static_cast<double>(work.products),
          bytes};
}

void LawFit::Add(const StepWork& work, double seconds, double bytes) {
  if (work.rows == 0 || !(seconds > 0)) return;
  const Terms x = TermsOf(work, bytes);
  for (int i = 0; i < kTerms; ++i) {
    sums_[i] += x[i];
    targets_[i] += x[i] / seconds;
    for (int j = 0; j < kTerms; ++j) squares_[i][j] += x[i] * x[j] / (seconds * seconds);
  }
  seconds_ += seconds;
  ++steps_;
}

void LawFit::Merge(const LawFit& other) {
  for (int i = 0; i < kTerms; ++i) {
    sums_[i] += other.sums_[i];
    targets_[i] += other.targets_[i];
    for (int j = 0; j < kTerms; ++j) squares_[i][j] += other.squares_[i][j];
  }
  seconds_ += other.seconds_;
  steps_ += other.steps_;
}

// Coordinate descent on the quadratic: each coefficient in turn takes its best value that is not negative.
MachineLaw LawFit::Law() const {
  CHECK(steps_ > 0);
  Terms c{};
  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
    double change = 0;
    for (int i = 0; i < kTerms; ++i) {
      if (squares_[i][i] <= 0) continue;
      double rest = targets_[i];
      for (int j = 0; j < kTerms; ++j) {
        if (j != i) rest -= squares_[i][j] * c[j];
      }
      const double best = std::max(0.0, rest / squares_[i][i]);
      if (best != c[i]) change = std::max(change, std::abs(best - c[i]) / std::max(best, c[i]));
      c[i] = best;
    }
    if (change < kSettled) break;
  }
  return {.fixed = c[0], .row = c[1], .context = c[3], .product = c[4], .row_beyond = c[2], .moved = c[5]};
}

double LawFit::Slowness(const MachineLaw& law) const {
  const Terms c = {law.fixed, law.row, law.row_beyond, law.context, law.product, law.moved};
  double expected = 0;
  for (int i = 0; i < kTerms; ++i) expected += c[i] * sums_[i];
  return expected > 0 ? seconds_ / expected : 1;
}

MachineLaw Slowed(MachineLaw law, double times) {
  for (double* term : {&law.fixed, &law.row, &law.row_beyond, &law.context, &law.product, &law.moved}) *term *= times;
  return law;
}

}  // namespace interlace
