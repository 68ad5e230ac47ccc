// A GenerateRequest of VllmEngine as a GenerationSpec.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/front/generation.h"

namespace vllm::grpc::engine {
class GenerateRequest;
}

namespace interlace {

// InvalidArgument names the field that is understood and not built in.
absl::StatusOr<GenerationSpec> SpecOf(const vllm::grpc::engine::GenerateRequest& request);

}  // namespace interlace
