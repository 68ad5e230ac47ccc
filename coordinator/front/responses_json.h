// Bodies of OpenAI's /v1/responses, parsed into the form that all protocols share; pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/api_request.h"

namespace interlace {

// InvalidArgument names the field. Nothing is stored: who goes on with a conversation sends all of it.
absl::StatusOr<ApiRequest> ParseResponses(absl::string_view body);

}  // namespace interlace
