// LayerSet: any set of a model's layers.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/ids.h"

namespace interlace {

// A value of 32 bytes; which layers of a request or of a block are meant. Models have at most kMaxLayers layers.
class LayerSet {
 public:
  static constexpr int32_t kMaxLayers = 256;

  constexpr LayerSet() = default;
  // Layers [begin, end).
  static constexpr LayerSet Range(int32_t begin, int32_t end) {
    LayerSet set;
    for (int32_t l = begin; l < end; ++l) set.Add(LayerId{l});
    return set;
  }
  // x of L layers, evenly interleaved, the first of each group first: with h = L - x, layer j is in iff floor((j+1)h/L)
  // = floor(jh/L) (L=8, x=4: 0,2,4,6). The layers that are left out, whose blocks a step reads from the host, so come
  // as late as they can: layer 0 only if none is in. LayerKV (arXiv 2410.00428) leaves 0,2,4,6 out, and every step then
  // begins with a wait.
  static constexpr LayerSet Interleaved(int32_t x, int32_t layers) {
    LayerSet set;
    const int64_t out = layers - x;
    for (int32_t j = 0; j < layers; ++j) {
      if ((j + 1) * out / layers == j * out / layers) set.Add(LayerId{j});
    }
    return set;
  }

  constexpr void Add(LayerId layer) { words_[Value(layer) / 64] |= uint64_t{1} << (Value(layer) % 64); }
  constexpr void Remove(LayerId layer) { words_[Value(layer) / 64] &= ~(uint64_t{1} << (Value(layer) % 64)); }
  constexpr bool Has(LayerId layer) const { return (words_[Value(layer) / 64] >> (Value(layer) % 64)) & 1; }
  constexpr bool empty() const {
    uint64_t any = 0;
    for (uint64_t word : words_) any |= word;
    return any == 0;
  }
  constexpr int32_t size() const {
    int32_t count = 0;
    for (uint64_t word : words_) count += word == 0 ? 0 : std::popcount(word);  // most models fill one word or two
    return count;
  }
  // How many layers are in both.
  friend constexpr int32_t CountCommon(const LayerSet& a, const LayerSet& b) {
    int32_t count = 0;
    for (size_t i = 0; i < kWords; ++i) {
      const uint64_t word = a.words_[i] & b.words_[i];
      count += word == 0 ? 0 : std::popcount(word);
    }
    return count;
  }
  constexpr bool Contains(const LayerSet& other) const { return (other - *this).empty(); }

  friend constexpr LayerSet operator|(LayerSet a, const LayerSet& b) {
    for (size_t i = 0; i < kWords; ++i) a.words_[i] |= b.words_[i];
    return a;
  }
  friend constexpr LayerSet operator&(LayerSet a, const LayerSet& b) {
    for (size_t i = 0; i < kWords; ++i) a.words_[i] &= b.words_[i];
    return a;
  }
  // Those of a that are not in b.
  friend constexpr LayerSet operator-(LayerSet a, const LayerSet& b) {
    for (size_t i = 0; i < kWords; ++i) a.words_[i] &= ~b.words_[i];
    return a;
  }
  constexpr LayerSet& operator|=(const LayerSet& b) { return *this = *this | b; }
  constexpr LayerSet& operator&=(const LayerSet& b) { return *this = *this & b; }
  constexpr LayerSet& operator-=(const LayerSet& b) { return *this = *this - b; }
  friend constexpr bool operator==(const LayerSet& a, const LayerSet& b) {
    uint64_t differ = 0;
    for (size_t i = 0; i < kWords; ++i) differ |= a.words_[i] ^ b.words_[i];
    return differ == 0;
  }

  // Calls body(LayerId) for each layer, ascending.
  template <typename Body>
  void ForEach(Body body) const {
    for (size_t i = 0; i < kWords; ++i) {
      for (uint64_t word = words_[i]; word != 0; word &= word - 1) {
        body(LayerId{static_cast<int32_t>(64 * i) + std::countr_zero(word)});
      }
    }
  }
  std::string ToString() const;  // "1,3-5"

  // Little-endian, without trailing zero bytes; for the wire.
  std::string Encode() const;
  // False iff there are more than 32 bytes.
  static bool Decode(absl::string_view bytes, LayerSet* set);

 private:
  static constexpr size_t kWords = kMaxLayers / 64;
  std::array<uint64_t, kWords> words_{};
};

}  // namespace interlace
