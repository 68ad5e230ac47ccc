// Qwen2-MoE: a Qwen2 of many small experts and one that every token passes, behind a gate of its own; some layers may
// be dense.
// Source: Qwen Team, "Qwen1.5-MoE", 2024; Yang et al., "Qwen2 Technical Report", 2024.
#include "model/arch/archs.h"
#include "model/arch/pre_norm.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen2Moe(const ArchInput& input) {
  return MakeDecoderArch<PreNorm>(input, PreNormKind{.bias = Decoder::Bias::kQkv});
}

}  // namespace interlace
