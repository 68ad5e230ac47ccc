#include "kernels/cuda/cuda_ops.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace::cuda {
namespace {

bool TypeOf(DType dtype, KvType* type) {
  switch (dtype) {
    case DType::kF32:
      *type = KvType::kF32;
      return true;
    case DType::kF16:
      *type = KvType::kF16;
      return true;
    case DType::kBF16:
      *type = KvType::kBf16;
      return true;
    case DType::kI8:
      *type = KvType::kI8;
      return true;
    default:
      return false;
  }
}

constexpr OpTable kOps = {
    .name = "cuda",
    .embedding = &Embedding,
    .rms_norm = &RmsNorm,
    .rope = &Rope,
    .linear = &Linear,
    .gated_linear = &GatedLinear,
    .gate = &Gate,
    .kv_append = &KvAppend,
    .paged_attention = &PagedAttention,
    .sample = &Sample,
    .residual_add = &ResidualAdd,
    .soft_cap = &SoftCap,
    .moe_route = &MoeRoute,
    .moe_ffn = &MoeFfn,
    .weight_bytes = &WeightBytes,
    .pack_weight = &PackWeight,
};

}  // namespace

const OpTable& Ops() { return kOps; }

bool StageRows(CudaStream& stream, const KvBlockShape& shape, absl::Span<const SequenceRows> sequences,
               StagedRows* staged, KvGeometry* geometry) {
  *geometry = {shape.block_tokens, shape.kv_heads, shape.head_dim, KvType::kF32};
  if (!TypeOf(shape.dtype, &geometry->type)) {
    stream.Fail(absl::UnimplementedError(
        absl::StrCat("the cuda backend stores KV as F32, F16, BF16 or I8, not ", TraitsOf(shape.dtype).name)));
    return false;
  }
  std::vector<KvRow> rows;
  std::vector<std::byte*> blocks;
  for (const SequenceRows& s : sequences) {
    const auto first_block = static_cast<int64_t>(blocks.size());
    CHECK(s.rows == 0 || (s.start + s.rows - 1) / shape.block_tokens < static_cast<int64_t>(s.blocks.size()));
    blocks.insert(blocks.end(), s.blocks.begin(), s.blocks.end());
    for (int64_t t = 0; t < s.rows; ++t) {
      rows.push_back({s.row + t, first_block, static_cast<int32_t>(s.start + t), 0});
    }
  }
  staged->count = static_cast<int64_t>(rows.size());
  if (rows.empty()) return true;
  StagedArray arrays[] = {ToStage<KvRow>(rows), ToStage<std::byte*>(blocks)};
  if (!stream.Stage(absl::MakeSpan(arrays))) return false;
  staged->rows = reinterpret_cast<const KvRow*>(arrays[0].device);
  staged->blocks = reinterpret_cast<unsigned char* const*>(arrays[1].device);
  return true;
}

}  // namespace interlace::cuda
