// TensorGroup: how the ranks that share the layers of a stage make one value of their parts. Implemented by the
// worker's StageGroup.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace interlace {

// Thread: runner. All ranks of the group make the same calls in the same order. What goes wrong is the implementation's
// to keep: from then on nothing that is computed counts.
class TensorGroup {
 public:
  virtual ~TensorGroup() = default;
  // Where this rank writes its part of the next Sum or Join: F32 [rows, cols], with what it held before.
  virtual Tensor Part(int64_t rows, int64_t cols) = 0;
  // y = or += the sum of the parts of all ranks, in their order: the same bits on each. F32 [rows, cols], as the parts.
  virtual void Sum(const Tensor& part, const Tensor& y, bool accumulate) = 0;
  // y = the parts of all ranks side by side. F32 [rows, the columns of all].
  virtual void Join(const Tensor& part, const Tensor& y) = 0;
};

}  // namespace interlace
