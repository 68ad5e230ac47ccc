// Anthropic's request bodies (/v1/messages), parsed into the form that all protocols share; pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/api_request.h"

namespace interlace {

// InvalidArgument names the field. A conversation that ends with the assistant's message is gone on with.
absl::StatusOr<ApiRequest> ParseMessages(absl::string_view body);
// A body of /v1/messages/count_tokens: the same without max_tokens.
absl::StatusOr<ApiRequest> ParseCountTokens(absl::string_view body);

}  // namespace interlace
