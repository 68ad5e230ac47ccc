// LayerKv: what a layer may do with the cache. Implemented by the worker's LayerPager.
#pragma once

#include "common/ids.h"
#include "kernels/tensor.h"

namespace interlace {

// Thread: runner. The trap: q, k, v and out hold the rows that the caller computes, in its order: all of a step's, or a
// draft's.
class LayerKv {
 public:
  virtual ~LayerKv() = default;
  // Appends k and v (RoPE applied), waits for the blocks that the step needs, attends. A sequence whose KV cannot be
  // had is marked lost in the step's result and its rows of `out` are zero. q, out: F32 [tokens, heads * head_dim]; k,
  // v: F32 [tokens, kv_heads * head_dim]. q and out may have no rows: those of k and v pass the attention over, and are
  // kept for those that come later.
  virtual void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) = 0;
};

}  // namespace interlace
