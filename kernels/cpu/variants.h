// The CPU variants of every op, one namespace per table. Included by op_table.cc and by the variants themselves.
#pragma once

#include "kernels/embedding/embedding.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/linear/linear.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/swiglu/swiglu.h"
#include "kernels/thread_team.h"

// Plain loops: the definition of each op.
namespace interlace::reference {
void Embedding(const EmbeddingArgs& args, ThreadTeam& team);
void RmsNorm(const RmsNormArgs& args, ThreadTeam& team);
void Rope(const RopeArgs& args, ThreadTeam& team);
void Linear(const LinearArgs& args, ThreadTeam& team);
void Swiglu(const SwigluArgs& args, ThreadTeam& team);
void KvAppend(const KvAppendArgs& args, ThreadTeam& team);
void PagedAttention(const PagedAttentionArgs& args, ThreadTeam& team);
void Sample(const SampleArgs& args, ThreadTeam& team);
}  // namespace interlace::reference

// Requires a CPU with AVX2, FMA and F16C.
namespace interlace::avx2 {
void RmsNorm(const RmsNormArgs& args, ThreadTeam& team);
void Rope(const RopeArgs& args, ThreadTeam& team);
void Linear(const LinearArgs& args, ThreadTeam& team);
void Swiglu(const SwigluArgs& args, ThreadTeam& team);
void PagedAttention(const PagedAttentionArgs& args, ThreadTeam& team);
}  // namespace interlace::avx2
