// BlockPointers: where the blocks of one sequence lie on the device, per layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"

namespace interlace {

// For each layer of the rank one array of addresses, block by block, which attention reads as it is; null: not on the
// device. The first shared() blocks are sealed: KvPool writes their addresses when they change, and absent(layer)
// counts the nulls among them that the sequence still sees. The rest are the sequence's own. Layers count from the
// rank's first. Owned by SequenceKv; thread: runner.
class BlockPointers {
 public:
  explicit BlockPointers(int32_t layers) : counts_(layers) {}
  BlockPointers(const BlockPointers&) = delete;
  BlockPointers& operator=(const BlockPointers&) = delete;

  int32_t blocks() const { return blocks_; }
  int32_t shared() const { return shared_; }
  // New blocks have null addresses. Requires: blocks >= shared().
  void Resize(int32_t blocks);
  // Of a block of the sequence's own.
  void SetOwn(int32_t layer, int32_t block, std::byte* address) { Row(layer)[block] = address; }
  // Of a shared block; says nothing about one that is not shared yet.
  void SetShared(int32_t layer, int32_t block, std::byte* address);
  // Block shared() is shared from now on; `address` says where it is in a layer.
  void ShareNext(absl::FunctionRef<std::byte*(int32_t layer)> address);
  // No row of the next steps sees blocks below `first` in this layer; it may lie lower than before.
  void SeeFrom(int32_t layer, int32_t first);

  int32_t first_seen(int32_t layer) const { return counts_[layer].first; }
  int32_t absent(int32_t layer) const { return counts_[layer].absent; }
  int32_t absent() const { return absent_; }  // in all layers
  // The first shared block from `from` on that is seen and absent; shared() if there is none.
  int32_t NextAbsent(int32_t layer, int32_t from) const;

  absl::Span<std::byte* const> Layer(int32_t layer) const {
    return {data_.data() + size_t{static_cast<uint32_t>(layer)} * capacity_, static_cast<size_t>(blocks_)};
  }
  // Address of layer 0's array, and how far apart the layers' arrays are; good until the next Resize.
  std::byte* const* data() const { return data_.data(); }
  size_t stride() const { return capacity_; }

 private:
  struct Count {
    int32_t first = 0;   // block that is seen
    int32_t absent = 0;  // of blocks [first, shared)
  };
  std::byte** Row(int32_t layer) { return data_.data() + size_t{static_cast<uint32_t>(layer)} * capacity_; }
  void Add(int32_t layer, int32_t absent) {
    counts_[layer].absent += absent;
    absent_ += absent;
  }

  std::vector<Count> counts_;     // [layers]
  std::vector<std::byte*> data_;  // [layers][capacity_]
  size_t capacity_ = 0;
  int32_t blocks_ = 0;
  int32_t shared_ = 0;
  int32_t absent_ = 0;
};

}  // namespace interlace
