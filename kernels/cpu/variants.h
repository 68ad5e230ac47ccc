// The CPU variants of every op, one namespace per table. Included by op_table.cc and by the variants themselves.
#pragma once

#include "kernels/embedding/embedding.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/linear/linear.h"
#include "kernels/moe/moe.h"
#include "kernels/op_context.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/residual_add/residual_add.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/soft_cap/soft_cap.h"

// Plain loops: the definition of each op.
namespace interlace::reference {
void Embedding(const EmbeddingArgs& args, OpContext on);
void RmsNorm(const RmsNormArgs& args, OpContext on);
void Rope(const RopeArgs& args, OpContext on);
void Linear(const LinearArgs& args, OpContext on);
void GatedLinear(const GatedLinearArgs& args, OpContext on);
void Gate(const GateArgs& args, OpContext on);
void KvAppend(const KvAppendArgs& args, OpContext on);
void PagedAttention(const PagedAttentionArgs& args, OpContext on);
void Sample(const SampleArgs& args, OpContext on);
void ResidualAdd(const ResidualAddArgs& args, OpContext on);
void SoftCap(const SoftCapArgs& args, OpContext on);
void MoeRoute(const MoeRouteArgs& args, OpContext on);
void MoeFfn(const MoeFfnArgs& args, OpContext on);
int64_t WeightBytes(DType dtype, int64_t rows, int64_t k);
void PackWeight(const Tensor& rows, std::byte* out, OpContext on);
}  // namespace interlace::reference

namespace interlace {
// moe_ffn of a table with these linear ops.
void GroupedMoeFfn(const MoeFfnArgs& args, OpContext on, void (*gated_linear)(const GatedLinearArgs&, OpContext),
                   void (*linear)(const LinearArgs&, OpContext));
}  // namespace interlace

// Requires a CPU with AVX2, FMA and F16C.
namespace interlace::avx2 {
void RmsNorm(const RmsNormArgs& args, OpContext on);
void Rope(const RopeArgs& args, OpContext on);
void Linear(const LinearArgs& args, OpContext on);
void GatedLinear(const GatedLinearArgs& args, OpContext on);
void Gate(const GateArgs& args, OpContext on);
void KvAppend(const KvAppendArgs& args, OpContext on);
void PagedAttention(const PagedAttentionArgs& args, OpContext on);
void Sample(const SampleArgs& args, OpContext on);
void SoftCap(const SoftCapArgs& args, OpContext on);
}  // namespace interlace::avx2

// Requires a CPU with AVX-512 F, BW, VL, DQ and VNNI, and what avx2 requires.
namespace interlace::avx512 {
void RmsNorm(const RmsNormArgs& args, OpContext on);
void Rope(const RopeArgs& args, OpContext on);
void Linear(const LinearArgs& args, OpContext on);
void GatedLinear(const GatedLinearArgs& args, OpContext on);
void Gate(const GateArgs& args, OpContext on);
void PagedAttention(const PagedAttentionArgs& args, OpContext on);
}  // namespace interlace::avx512

// Requires a CPU with AVX512-BF16, and what avx512 requires.
namespace interlace::avx512bf16 {
void PagedAttention(const PagedAttentionArgs& args, OpContext on);
}  // namespace interlace::avx512bf16
