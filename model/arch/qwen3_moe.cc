// Qwen3-MoE: a Qwen3 of many small experts; some layers may be dense.
// Source: Yang et al., "Qwen3 Technical Report", 2025.
#include "model/arch/archs.h"
#include "model/arch/pre_norm.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen3Moe(const ArchInput& input) {
  return MakeDecoderArch<PreNorm>(input, PreNormKind{.head_norms = Decoder::HeadNorms::kQk});
}

}  // namespace interlace
