// OpenAI's request bodies, parsed; pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/api_request.h"

namespace interlace {

// InvalidArgument names the field. A field that is understood and cannot be honoured is refused unless it has the value
// that changes nothing; unknown fields are ignored.
absl::StatusOr<ApiRequest> ParseChat(absl::string_view body);
absl::StatusOr<ApiRequest> ParseCompletion(absl::string_view body);

}  // namespace interlace
