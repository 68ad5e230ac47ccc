#include "model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace interlace {
namespace {

double Llama3(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < s.original_context / s.high_frequency_factor) return frequency;
  if (wavelength > s.original_context / s.low_frequency_factor) return frequency / s.factor;
  const double smooth =
      (s.original_context / wavelength - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

// The pair that turns `turns` times over the original context.
double PairOfTurns(double turns, int32_t rotated, double base, const RopeScaling& s) {
  return rotated * std::log(s.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
}

}  // namespace

RopeSpec MakeRope(int32_t rotated, double base, const RopeScaling& s) {
  RopeSpec rope;
  const bool yarn = s.kind == RopeScaling::Kind::kYarn;
  const double low = yarn ? std::max(0.0, std::floor(PairOfTurns(s.beta_fast, rotated, base, s))) : 0;
  const double high = yarn ? std::min(rotated - 1.0, std::ceil(PairOfTurns(s.beta_slow, rotated, base, s))) : 0;
  for (int32_t i = 0; i < rotated / 2; ++i) {
    double frequency = std::pow(base, -2.0 * i / rotated);
    if (s.kind == RopeScaling::Kind::kLinear) frequency /= s.factor;
    if (s.kind == RopeScaling::Kind::kLlama3) frequency = Llama3(frequency, s);
    if (s.kind == RopeScaling::Kind::kLongRope) frequency /= s.pair_factors[i];
    if (yarn) {
      const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
      frequency = frequency / s.factor * ramp + frequency * (1 - ramp);
    }
    rope.frequencies.push_back(static_cast<float>(frequency));
  }
  if (yarn) {
    const double magnitude = s.magnitude > 0 ? s.magnitude : s.factor > 1 ? 0.1 * std::log(s.factor) + 1 : 1;
    rope.magnitude = static_cast<float>(magnitude);
  }
  if (s.kind == RopeScaling::Kind::kLongRope) {
    const double grown = s.factor > 1 ? std::sqrt(1 + std::log(s.factor) / std::log(s.original_context)) : 1;
    rope.magnitude = static_cast<float>(s.magnitude > 0 ? s.magnitude : grown);
  }
  return rope;
}

}  // namespace interlace
