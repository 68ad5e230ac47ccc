// The makers of architectures, declared here so that a new one needs no header.
#pragma once

#include <memory>

#include "model/model_arch.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> MakeLlama(const ArchInput& input);

}  // namespace interlace
