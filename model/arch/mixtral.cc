// Mixtral: a Llama whose feed-forward part is eight experts, two of which run for each token.
// Source: Jiang et al., "Mixtral of Experts", 2024.
#include "model/arch/archs.h"
#include "model/arch/pre_norm.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeMixtral(const ArchInput& input) {
  return MakeDecoderArch<PreNorm>(input, PreNormKind{});
}

}  // namespace interlace
