// The frequencies of rotary positions, and the ways to stretch them over a longer context; pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

namespace interlace {

struct RopeSpec {
  std::vector<float> frequencies;  // [rotated / 2], scaling applied; rotated: of each head, its size as a rule
  float magnitude = 1;             // RopeArgs::magnitude
  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// kLinear: f / factor. kLlama3: f / factor below a wavelength, f above another, blended between (Llama 3.1, 2024).
// kYarn: f / factor for pairs that turn few times over the original context, f for those that turn often, a ramp over
// pairs between, and a magnitude (Peng et al., "YaRN", 2023). kLongRope: f / a factor of each pair, and a magnitude
// (Ding et al., "LongRoPE", 2024).
struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1;                                           // > 0
  double original_context = 0;                                 // tokens; of all but kLinear
  double low_frequency_factor = 1, high_frequency_factor = 4;  // of kLlama3
  double beta_fast = 32, beta_slow = 1;                        // of kYarn: turns
  std::vector<double> pair_factors;                            // of kLongRope: [rotated / 2]
  // Of kYarn; 0: 0.1 ln(factor) + 1. Of kLongRope; 0: sqrt(1 + ln(factor) / ln(original_context)), factor being that of
  // the contexts.
  double magnitude = 0;
};

// base^(-2i/rotated), scaled. Requires: base > 1, factors > 0.
RopeSpec MakeRope(int32_t rotated, double base, const RopeScaling& scaling);

}  // namespace interlace
