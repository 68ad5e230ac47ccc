// The frequencies of rotary positions, and the ways to stretch them over a longer context; pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

namespace interlace {

struct RopeSpec {
  std::vector<float> frequencies;  // [head_dim / 2], scaling applied
  float magnitude = 1;             // RopeArgs::magnitude
  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// kLinear: f / factor. kLlama3: f / factor below a wavelength, f above another, blended between (Llama 3.1, 2024).
// kYarn: f / factor for pairs that turn few times over the original context, f for those that turn often, a ramp over
// pairs between, and a magnitude (Peng et al., "YaRN", 2023).
struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1;                                           // > 0
  double original_context = 0;                                 // tokens; of kLlama3 and kYarn
  double low_frequency_factor = 1, high_frequency_factor = 4;  // of kLlama3
  double beta_fast = 32, beta_slow = 1;                        // of kYarn: turns
  double magnitude = 0;                                        // of kYarn; 0: 0.1 ln(factor) + 1
};

// base^(-2i/head_dim), scaled. Requires: base > 1, factors > 0.
RopeSpec MakeRope(int32_t head_dim, double base, const RopeScaling& scaling);

}  // namespace interlace
