// The makers of architectures, declared here so that a new one needs no header.
#pragma once

#include <memory>

#include "model/model_arch.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeLlama(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen2(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen3(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeGemma3(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeMixtral(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen2Moe(const ArchInput& input);
absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen3Moe(const ArchInput& input);

// ModelSpec::architecture of a name as GGUF or config.json has it; Unimplemented names the file and lists the known
// ones.
absl::StatusOr<absl::string_view> FindArch(absl::string_view name, absl::string_view file);

}  // namespace interlace
