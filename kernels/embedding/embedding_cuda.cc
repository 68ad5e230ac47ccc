#include "kernels/embedding/embedding_cuda.h"

#include "common/check.h"
#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void Embedding(const EmbeddingArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (args.out.rows == 0 || !stream.Begin("embedding")) return;
  for (int32_t token : args.tokens) CHECK(token >= 0 && token < args.table.rows);
  CHECK(static_cast<int64_t>(args.tokens.size()) >= args.out.rows);
  StagedArray tokens = ToStage<int32_t>(args.tokens);
  if (!stream.Stage({&tokens, 1})) return;
  stream.Launch(CudaKernel::kEmbedding, {args.out.rows},
                EmbeddingParams{.out = args.out.f32(),
                                .table = reinterpret_cast<const uint16_t*>(args.table.data),
                                .tokens = reinterpret_cast<const int32_t*>(tokens.device),
                                .width = args.table.k,
                                .stride = PaddedK(args.table.k),
                                .scale = args.scale});
}

}  // namespace interlace::cuda
