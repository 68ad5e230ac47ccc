// DigestModel: a model of numbers modulo a prime, in which each position of each layer depends on all that it sees.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace interlace::sim {

inline constexpr int32_t kMostBlockTokens = 16;
inline constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;

inline uint64_t Add(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum >= kPrime ? sum - kPrime : sum;
}
inline uint64_t Subtract(uint64_t a, uint64_t b) { return a >= b ? a - b : a + kPrime - b; }
inline uint64_t Multiply(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return Add(static_cast<uint64_t>(product) & kPrime, static_cast<uint64_t>(product >> 61));
}
// A number modulo the prime that looks like chance.
inline uint64_t Scatter(uint64_t z) {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return (z ^ (z >> 31)) % kPrime;
}

// One block of one layer, as memory holds it: element i is the sum of what the block's positions 0 .. i left there. So
// each element depends on all positions before it, and what a row sees of a block is one difference.
using Extent = std::array<uint64_t, kMostBlockTokens>;

// For position p with hidden number x, layer l leaves kv = Kv(l, x, p) in the cache, attends to the kv of all positions
// that it sees, weighted by the number of the block that they are read from, and makes x' = Next(l, x, attended). Any
// kv that is lost, stale, or read from another place changes x' and so each token from there on, except by chance: 1 in
// the vocabulary for one token. A value; any thread.
class DigestModel {
 public:
  DigestModel(std::vector<int32_t> windows, int32_t block_tokens, int32_t vocab)
      : windows_(std::move(windows)), block_tokens_(block_tokens), vocab_(vocab) {
    for (uint64_t b = 0; b < weights_.size(); ++b) weights_[b] = Scatter(1000 + b);
    for (uint64_t l = 0; l < windows_.size(); ++l) factors_.push_back({Scatter(3 * l), Scatter(3 * l + 1)});
  }

  uint64_t Embed(int32_t token, int32_t position) const {
    return Scatter((static_cast<uint64_t>(position) << 32) ^ static_cast<uint32_t>(token));
  }
  uint64_t Kv(int32_t layer, uint64_t x, int32_t position) const {
    return Add(Multiply(x, factors_[layer].first), static_cast<uint64_t>(position));
  }
  uint64_t Next(int32_t layer, uint64_t x, uint64_t attended) const {
    const uint64_t sum = Add(x, attended);
    return Multiply(sum, Add(sum, factors_[layer].second));
  }
  // `seed`: of the request's sampling.
  int32_t TokenOf(uint64_t x, uint64_t seed) const {
    return static_cast<int32_t>(Scatter(x ^ Scatter(seed)) % static_cast<uint64_t>(vocab_));
  }
  uint64_t Weight(int32_t block) const { return weights_[block]; }
  int32_t FirstSeen(int32_t layer, int32_t position) const {
    return windows_[layer] > 0 && position >= windows_[layer] ? position + 1 - windows_[layer] : 0;
  }

  int32_t layers() const { return static_cast<int32_t>(windows_.size()); }
  const std::vector<int32_t>& windows() const { return windows_; }
  int32_t block_tokens() const { return block_tokens_; }
  int32_t vocab() const { return vocab_; }

 private:
  std::vector<int32_t> windows_;  // [layers]; 0: sees all positions
  int32_t block_tokens_;
  int32_t vocab_;
  std::array<uint64_t, 512> weights_;
  std::vector<std::pair<uint64_t, uint64_t>> factors_;
};

// The stream that a request must get: one position after another, without blocks, ranks or a scheduler.
class ModelStream {
 public:
  ModelStream(const DigestModel& model, uint64_t seed)
      : model_(model), seed_(seed), sums_(static_cast<size_t>(model.layers())) {}

  // The token that follows.
  int32_t Append(int32_t token) {
    uint64_t x = model_.Embed(token, position_);
    const uint64_t weight = model_.Weight(position_ / model_.block_tokens());
    for (int32_t l = 0; l < model_.layers(); ++l) {
      std::vector<uint64_t>& sums = sums_[l];  // of weighted kv up to a position
      const uint64_t kv = Multiply(weight, model_.Kv(l, x, position_));
      sums.push_back(position_ > 0 ? Add(sums.back(), kv) : kv);
      const int32_t first = model_.FirstSeen(l, position_);
      x = model_.Next(l, x, first > 0 ? Subtract(sums.back(), sums[first - 1]) : sums.back());
    }
    ++position_;
    return model_.TokenOf(x, seed_);
  }

 private:
  const DigestModel& model_;
  const uint64_t seed_;
  std::vector<std::vector<uint64_t>> sums_;  // [layers][positions]
  int32_t position_ = 0;
};

}  // namespace interlace::sim
