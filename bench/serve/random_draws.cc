#include "bench/serve/random_draws.h"

#include <cmath>
#include <limits>
#include <random>

namespace interlace {
namespace {

// Entropy as the standard distributions take it.
struct Words {
  using result_type = uint64_t;
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  uint64_t operator()() { return entropy.Next(); }
  Entropy& entropy;
};

}  // namespace

double Draws::Uniform() { return static_cast<double>(entropy_->Next() >> 11) * 0x1p-53; }

int64_t Draws::Below(int64_t bound) {
  Words words{*entropy_};
  return std::uniform_int_distribution<int64_t>(0, bound - 1)(words);
}

double Draws::Exponential(double mean) { return -mean * std::log1p(-Uniform()); }

double Draws::Gamma(double shape, double scale) {
  Words words{*entropy_};
  return std::gamma_distribution<double>(shape, scale)(words);
}

double Draws::LogNormal(double median, double sigma) {
  Words words{*entropy_};
  return std::lognormal_distribution<double>(std::log(median), sigma)(words);
}

}  // namespace interlace
