// The host side of every op of the cuda backend: stages its arrays, queues its kernels.
//
// Tensors of the arguments lie in memory of the backend (Backend::Allocate); spans (tokens, positions, frequencies,
// sequences and their block lists, sampling settings) are the host's and are read before the op returns.
#pragma once

#include <vector>

#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/kv_device.h"
#include "kernels/op_table.h"

namespace interlace::cuda {

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

// Weights are BF16 [rows, PaddedK(k)], whatever the file has; columns from k on are 0.
int64_t WeightBytes(DType dtype, int64_t rows, int64_t k);
void PackWeight(const Tensor& rows, std::byte* out, OpContext on);
// A multiple of 8, so that every row starts at 16 bytes.
constexpr int64_t PaddedK(int64_t k) { return (k + 7) / 8 * 8; }

// The rows of a call over paged KV on the device: one KvRow for each row of each sequence, and all block lists.
struct StagedRows {
  const KvRow* rows = nullptr;
  unsigned char* const* blocks = nullptr;
  int64_t count = 0;
};
// False: an error stands. Unimplemented, through the stream: a KV type that the backend does not store.
bool StageRows(CudaStream& stream, const KvBlockShape& shape, absl::Span<const SequenceRows> sequences,
               StagedRows* staged, KvGeometry* geometry);

const OpTable& Ops();

}  // namespace interlace::cuda
