// Neighbours: the keys of one scope, and which of them are nearest to another key.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace interlace {

struct Neighbour {
  uint64_t id = 0;
  float similarity = 0;  // cosine
};

// Few keys are compared one by one; from kFlat on a graph of small worlds finds them (hnswlib), which now and then
// misses the nearest one. Source: Malkov, Yashunin, arXiv 1603.09320.
//
// Owned by SkipIndex; thread: its user's. The trap: a place in the graph whose key was removed is used again by the
// next one; should more than half be empty, the graph is built anew, which takes a millisecond a key.
class Neighbours {
 public:
  static constexpr int32_t kFlat = 1024;

  explicit Neighbours(int32_t width);
  ~Neighbours();

  // Requires: `key` has the width and length 1, `id` is new.
  void Put(uint64_t id, absl::Span<const float> key);
  void Remove(uint64_t id);
  // Up to `most`, nearest first.
  std::vector<Neighbour> Nearest(absl::Span<const float> key, int32_t most) const;
  // Requires: it is there. Valid until the next Put or Remove.
  absl::Span<const float> KeyOf(uint64_t id) const;
  bool Has(uint64_t id) const { return places_.contains(id); }
  int32_t size() const { return static_cast<int32_t>(places_.size()); }
  // That its keys take; empty places, up to as many, come on top.
  int64_t bytes() const;

 private:
  struct Graph;
  static constexpr uint64_t kNobody = ~uint64_t{0};

  const float* RowOf(size_t place) const;
  void BecomeGraph();
  void RemoveRow(size_t place);
  void Rebuild();

  const int32_t width_;
  std::vector<float> rows_;  // [places, width] while there is no graph
  std::unique_ptr<Graph> graph_;
  std::vector<uint64_t> ids_;  // by place
  std::vector<size_t> free_;   // places of the graph
  absl::flat_hash_map<uint64_t, size_t> places_;
};

// Scaled to length 1. False: it has none, or is not finite.
bool Normalise(std::vector<float>* key);
float Dot(absl::Span<const float> a, absl::Span<const float> b);

}  // namespace interlace
