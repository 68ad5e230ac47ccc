// Llama: RMSNorm, grouped-query attention with rotary positions, SwiGLU.
// Source: Touvron et al., "LLaMA", 2023; "Llama 2", 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024.
#include "model/arch/archs.h"
#include "model/arch/pre_norm.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeLlama(const ArchInput& input) {
  return MakeDecoderArch<PreNorm>(input, PreNormKind{});
}

}  // namespace interlace
