// Keys and plans by chance, for tests of the skip index.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "common/entropy.h"
#include "coordinator/skip_index/neighbours.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

inline double Uniform(Entropy& entropy) { return static_cast<double>(entropy.Next() >> 11) * 0x1p-53; }
inline double Gauss(Entropy& entropy) {
  const double radius = std::sqrt(-2 * std::log(1 - Uniform(entropy)));
  return radius * std::cos(2 * 3.141592653589793 * Uniform(entropy));
}
inline std::vector<float> RandomKey(Entropy& entropy, int32_t width) {
  std::vector<float> key;
  for (int32_t i = 0; i < width; ++i) key.push_back(static_cast<float>(Gauss(entropy)));
  Normalise(&key);
  return key;
}
// `noise` of each number, over the key's own: 0: the same key; 1: about at 45 degrees.
inline std::vector<float> Near(Entropy& entropy, const std::vector<float>& key, double noise) {
  std::vector<float> near = key;
  const double scale = noise / std::sqrt(static_cast<double>(key.size()));
  for (float& x : near) x += static_cast<float>(scale * Gauss(entropy));
  Normalise(&near);
  return near;
}
inline SkipPlan RandomPlan(Entropy& entropy, int32_t layers, double share) {
  SkipPlan plan;
  for (int32_t l = 1; l + 1 < layers; ++l) {
    if (Uniform(entropy) < share) plan.attention.Add(LayerId{l});
    if (Uniform(entropy) < share) plan.feed_forward.Add(LayerId{l});
  }
  return plan;
}

}  // namespace interlace
