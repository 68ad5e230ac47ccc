// A weight in the layout of an op table, from rows in the file's layout.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace interlace {

class PackedWeight {
 public:
  // `rows` must outlive it where the table uses the file's layout in place.
  PackedWeight(const OpTable& ops, Backend& memory, const Tensor& rows, int threads = 1)
      : weight_{rows.dtype, rows.rows, rows.cols, static_cast<const std::byte*>(rows.data)} {
    const int64_t bytes = ops.weight_bytes(rows.dtype, rows.rows, rows.cols);
    if (bytes == 0) return;
    memory_ = memory.Allocate(bytes).value();
    ThreadTeam team(threads);
    ops.pack_weight(rows, memory_->data(), team);
    weight_.data = memory_->data();
  }
  // Owns the rows too.
  PackedWeight(const OpTable& ops, Backend& memory, const Tensor& rows, std::vector<uint8_t> bytes)
      : PackedWeight(ops, memory, rows) {
    if (memory_ == nullptr) rows_ = std::move(bytes);
  }
  const LinearWeight& weight() const { return weight_; }

 private:
  LinearWeight weight_;
  std::vector<uint8_t> rows_;
  std::unique_ptr<DeviceBuffer> memory_;
};

}  // namespace interlace
