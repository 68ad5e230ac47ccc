// The HTTP protocols of generations: a table of how each one's bodies are read and its answers written.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/front/answer.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/api_request.h"

namespace interlace {

struct ProtocolRow {
  Protocol protocol;
  absl::string_view path;
  absl::StatusOr<ApiRequest> (*parse)(absl::string_view body);
  std::unique_ptr<Answer> (*answer)(const ApiRequest& request, ReplyHead head);
  std::string (*error)(const ApiError& error);  // the body of a refusal
};
absl::Span<const ProtocolRow> Protocols();
const ProtocolRow& RowOf(Protocol protocol);

std::unique_ptr<Answer> MakeAnswer(const ApiRequest& request, ReplyHead head);

}  // namespace interlace
