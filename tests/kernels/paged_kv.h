// The KV of one sequence and one layer in blocks at shuffled places. Slots never written are NaN.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/thread_team.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {

class PagedKv {
 public:
  PagedKv(Backend& backend, const KvBlockShape& shape, int64_t tokens, Random& random)
      : shape_(shape), count_((tokens + shape.block_tokens - 1) / shape.block_tokens) {
    memory_ = backend.Allocate(count_ * shape.bytes()).value();
    auto* floats = reinterpret_cast<float*>(memory_->data());
    std::fill(floats, floats + count_ * shape.bytes() / int64_t{sizeof(float)},
              std::numeric_limits<float>::quiet_NaN());
    for (int64_t i = 0; i < count_; ++i) blocks_.push_back(memory_->data() + i * shape.bytes());
    random.Shuffle(blocks_);
  }
  PagedKv(const PagedKv&) = delete;
  PagedKv& operator=(const PagedKv&) = delete;

  // k, v: [tokens, kv_heads * head_dim] at positions start, start + 1, ...
  void Append(const OpTable& ops, std::vector<float>& k, std::vector<float>& v, int32_t start, OpContext team) {
    const int64_t width = int64_t{shape_.kv_heads} * shape_.head_dim;
    const auto tokens = static_cast<int64_t>(k.size()) / width;
    const SequenceRows rows{0, tokens, start, blocks_};
    ops.kv_append({.shape = shape_,
                   .k = {k.data(), DType::kF32, tokens, width},
                   .v = {v.data(), DType::kF32, tokens, width},
                   .sequences = {&rows, 1}},
                  team);
  }
  absl::Span<std::byte* const> blocks() const { return blocks_; }
  // The float at [block][offset], in the order of the sequence.
  float& At(int64_t block, int64_t offset) { return reinterpret_cast<float*>(blocks_[block])[offset]; }
  int64_t block_count() const { return count_; }

 private:
  KvBlockShape shape_;
  int64_t count_;
  std::unique_ptr<DeviceBuffer> memory_;
  std::vector<std::byte*> blocks_;
};

}  // namespace interlace
