// The KV of one sequence and one layer in blocks at shuffled places. What is never written reads as NaN.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {

class PagedKv {
 public:
  PagedKv(Backend& backend, const KvBlockShape& shape, int64_t tokens, Random& random, bool shuffled = true)
      : shape_(shape), count_((tokens + shape.block_tokens - 1) / shape.block_tokens) {
    memory_ = backend.Allocate(count_ * shape.bytes()).value();
    // All bits set is a NaN in every float type; of I8 it is one in the scales.
    std::memset(memory_->data(), 0xff, static_cast<size_t>(count_ * shape.bytes()));
    for (int64_t i = 0; i < count_; ++i) blocks_.push_back(memory_->data() + i * shape.bytes());
    if (shuffled) random.Shuffle(blocks_);
  }
  PagedKv(const PagedKv&) = delete;
  PagedKv& operator=(const PagedKv&) = delete;

  // k, v: [tokens, kv_heads * head_dim] at positions start, start + 1, ...
  void Append(const OpTable& ops, std::vector<float>& k, std::vector<float>& v, int32_t start, OpContext on) {
    const int64_t width = int64_t{shape_.kv_heads} * shape_.head_dim;
    const auto tokens = static_cast<int64_t>(k.size()) / width;
    const SequenceRows rows{0, tokens, start, blocks_};
    ops.kv_append({.shape = shape_,
                   .k = {k.data(), DType::kF32, tokens, width},
                   .v = {v.data(), DType::kF32, tokens, width},
                   .sequences = {&rows, 1}},
                  on);
  }
  // The first `count` blocks are gone.
  void Drop(int64_t count) { std::fill_n(blocks_.begin(), count, nullptr); }

  absl::Span<std::byte* const> blocks() const { return blocks_; }
  int64_t block_count() const { return count_; }
  const KvBlockShape& shape() const { return shape_; }

  // Elements of a block as floats (codes of kI8 as they are), K before V; then its scales, if any.
  std::vector<float> Contents(int64_t block) const {
    const std::byte* at = blocks_[block];
    std::vector<float> out(2 * shape_.k_elements());
    if (shape_.dtype == DType::kI8) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(static_cast<int8_t>(at[i]));
      const size_t codes = out.size();
      out.resize(codes + shape_.scale_bytes() * 2 / sizeof(float));
      std::memcpy(&out[codes], at + codes, (out.size() - codes) * sizeof(float));
    } else {
      DequantiseRow(shape_.dtype, at, static_cast<int64_t>(out.size()), out.data());
    }
    return out;
  }

 private:
  KvBlockShape shape_;
  int64_t count_;
  std::unique_ptr<DeviceBuffer> memory_;
  std::vector<std::byte*> blocks_;
};

inline constexpr DType kKvTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};

}  // namespace interlace
