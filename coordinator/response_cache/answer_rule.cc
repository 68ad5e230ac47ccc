#include "coordinator/response_cache/answer_rule.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace interlace {
namespace {

constexpr double kSteepness[] = {5, 10, 20, 40, 80, 200};
constexpr double kNever = 1.3;    // a threshold: no prompt but its own has the answer
constexpr double kRarest = 3e-4;  // no comparison rules a curve out: answers are sometimes judged wrongly

}  // namespace

AnswerRule::AnswerRule() = default;

// Thresholds 0, 0.05, ... 1, and one beyond.
AnswerRule::Curve AnswerRule::CurveAt(size_t at) {
  static_assert(std::size(kSteepness) == kSteepnesses);
  const size_t threshold = at / kSteepnesses;
  return {threshold + 1 == kThresholds ? kNever : static_cast<double>(threshold) / 20, kSteepness[at % kSteepnesses]};
}

double AnswerRule::Curve::Good(double likeness) const {
  return 1 / (1 + std::exp(-steepness * (likeness - threshold)));
}

void AnswerRule::Note(double likeness, bool good) {
  ++seen_;
  for (size_t at = 0; at < scores_.size(); ++at) {
    const double chance = CurveAt(at).Good(likeness);
    const double score = std::log(std::max(kRarest, good ? chance : 1 - chance));
    scores_[at] = static_cast<float>(scores_[at] * (1 - 1 / kMemory) + score);
  }
  const float largest = *std::max_element(scores_.begin(), scores_.end());
  for (float& score : scores_) score -= largest;
}

double AnswerRule::threshold() const {
  double weights = 0, sum = 0;
  for (size_t at = 0; at < scores_.size(); ++at) {
    const double weight = std::exp(scores_[at]);
    weights += weight;
    sum += weight * CurveAt(at).threshold;
  }
  return sum / weights;
}

// With any share of doubt, P is at least the curve below which that share of the weights lies; 1 - doubt times that is
// a bound of P itself, and the best such bound counts. A model that is asked with chance c leaves (1 - c)(1 - P) wrong.
double AnswerRule::TrialChance(double likeness, double error) const {
  if (seen_ < kLeast) return 1;
  std::array<std::pair<double, double>, kThresholds * kSteepnesses> curves;  // chance, weight
  double weights = 0;
  for (size_t at = 0; at < scores_.size(); ++at) {
    curves[at] = {CurveAt(at).Good(likeness), std::exp(scores_[at])};
    weights += curves[at].second;
  }
  std::sort(curves.begin(), curves.end());
  double below = 0, bound = 0;
  for (const auto& [chance, weight] : curves) {
    bound = std::max(bound, (1 - below / weights) * chance);
    below += weight;
  }
  return bound >= 1 - error ? 0 : 1 - error / (1 - bound);
}

}  // namespace interlace
