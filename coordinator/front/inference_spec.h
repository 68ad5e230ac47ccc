// Messages of interlace.v1 as what the intake understands; pure functions.
#pragma once

#include "coordinator/front/generation.h"

namespace interlace::v1 {
class ChatRequest;
class GenerateRequest;
}  // namespace interlace::v1

namespace interlace {

// Everything but the call's own deadline. Any message gives a spec; Intake::Start refuses what is not served.
GenerationSpec SpecOf(const v1::GenerateRequest& request);
GenerationSpec SpecOf(const v1::ChatRequest& request);

}  // namespace interlace
