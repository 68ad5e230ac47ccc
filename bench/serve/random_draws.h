// Draws: the distributions that a load is made of.
#pragma once

#include <cstdint>
#include <memory>

#include "common/entropy.h"

namespace interlace {

// One stream of chance. Owned by the arrivals or the dataset that draws from it; thread: one.
class Draws {
 public:
  explicit Draws(std::unique_ptr<Entropy> entropy) : entropy_(std::move(entropy)) {}
  double Uniform();              // in [0, 1)
  int64_t Below(int64_t bound);  // in [0, bound); bound > 0
  double Exponential(double mean);
  double Gamma(double shape, double scale);
  double LogNormal(double median, double sigma);  // sigma: of the logarithm

 private:
  std::unique_ptr<Entropy> entropy_;
};

}  // namespace interlace
