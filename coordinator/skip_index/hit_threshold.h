// HitThreshold: how like a prompt must be to an entry's for its plan to serve it; learned entry by entry.
#pragma once

#include <array>
#include <cstdint>

#include "absl/types/span.h"

namespace interlace {

// One use of an entry: by how much the prompts were alike, 0 (as any two of the scope) to 1 (the same), and whether the
// plan did what it was used for.
struct HitSample {
  float likeness = 0;
  bool good = false;
  friend bool operator==(const HitSample&, const HitSample&) = default;
};

// Where P(good | likeness) = sigmoid(steepness (likeness - threshold)) lies is estimated from the last uses, with the
// variance of the threshold, and an entry is trusted so far as the share of prompts that it serves badly stays below
// kMostWrong, whatever the distribution of their likeness, and never for a prompt that it more likely serves badly.
// Source: Schroeder et al., "vCache: verified semantic prompt caching", arXiv 2502.03771, where the label is whether
// answers are equal.
//
// A value, part of an entry.
class HitThreshold {
 public:
  static constexpr int32_t kLeast = 6, kMost = 32;  // uses that it needs, and remembers
  static constexpr double kMostWrong = 0.1;

  void Note(HitSample sample);
  // The chance with which the plan must be tried, and not be counted on; 1: always.
  double TrialChance(double likeness) const;
  absl::Span<const HitSample> samples() const { return absl::MakeConstSpan(samples_).first(count_); }
  int32_t good() const;
  friend bool operator==(const HitThreshold& a, const HitThreshold& b) { return a.samples() == b.samples(); }

 private:
  struct Fit {
    double threshold = 1, variance = 0, steepness = 0;
  };
  Fit FitSamples() const;
  Fit FitSeparable(double worst_good, double best_bad) const;

  std::array<HitSample, kMost> samples_{};
  int32_t count_ = 0;
};

}  // namespace interlace
