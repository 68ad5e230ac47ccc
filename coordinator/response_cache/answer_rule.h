// AnswerRule: how like a prompt must be to an entry's to get its answer; learned entry by entry.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace interlace {

// P(same answer | likeness) is taken for sigmoid(steepness (likeness - threshold)), and what comparisons of the entry's
// answer with fresh ones say of both is kept as weights of a grid of curves. The entry is trusted so far as the share
// of requests that get a wrong answer stays below `error`, whatever the distribution of their likeness. Source:
// Schroeder et al., "vCache: verified semantic prompt caching", arXiv 2502.03771, sections 4 and 5. There one curve is
// fitted and its threshold has a normal error; that knows nothing of how steep it is, and where all comparisons agree
// there is no fit.
//
// It is not HitThreshold, which remembers 32 uses and has one bound: with an error of 0.01 an entry needs more to serve
// many. A value of half a KiB, part of an entry.
class AnswerRule {
 public:
  static constexpr int64_t kLeast = 6;    // comparisons that it needs
  static constexpr double kMemory = 256;  // the weight of older ones fades with so many behind them

  AnswerRule();
  // `likeness`: 0 as any two prompts of the scope, 1 the same prompt. `good`: the answers were the same.
  void Note(double likeness, bool good);
  // The chance with which the model must be asked all the same; 1: always.
  double TrialChance(double likeness, double error) const;
  // Where the same answer is as likely as another one, as far as is known.
  double threshold() const;
  int64_t seen() const { return seen_; }

 private:
  static constexpr size_t kThresholds = 22, kSteepnesses = 6;
  struct Curve {
    double threshold = 0, steepness = 0;
    double Good(double likeness) const;
  };
  static Curve CurveAt(size_t at);

  std::array<float, kThresholds * kSteepnesses> scores_{};  // logarithms of weights, the largest 0
  int64_t seen_ = 0;
};

}  // namespace interlace
