// Qwen2: a Llama whose q, k and v have biases.
// Source: Yang et al., "Qwen2 Technical Report", 2024.
#include "model/arch/archs.h"
#include "model/arch/pre_norm.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen2(const ArchInput& input) {
  return MakeDecoderArch<PreNorm>(input, PreNormKind{.bias = Decoder::Bias::kQkv});
}

}  // namespace interlace
