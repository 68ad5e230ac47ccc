// ApiError: an absl::Status as OpenAI's clients see it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/request.h"

namespace interlace {

// The value of an error body, and how a client is told whether to try again.
struct ApiError {
  int http = 500;
  std::string message;
  std::string type;            // invalid_request_error, rate_limit_error, server_error
  std::string param;           // the field at fault; empty: none
  std::string code;            // context_length_exceeded, ...; empty: none
  bool retry = true;           // false: the same request can only fail again
  std::string shed_reason;     // of a request that was shed by prediction; empty: it was not
  absl::Duration retry_after;  // when to ask again; zero: not known
};
ApiError ToApiError(const absl::Status& status);

// InvalidArgument "field: why" that remembers the field for `param`.
absl::Status BadField(absl::string_view field, absl::string_view why);
// What the engine said, as a client is told: FailedPrecondition, which the engine gives to a request that can never run
// here, is InvalidArgument with the code kv_capacity_exceeded, since no retry helps. Others stay as they are.
absl::Status ForClients(absl::Status status);
// The status of an ended request, which remembers why it was shed, if it was.
absl::Status ForClients(const RequestEnd& end);
// The same status, with when to ask again.
absl::Status WithRetryAfter(absl::Status status, absl::Duration wait);
// The same status, with a machine-readable `code`.
absl::Status WithCode(absl::Status status, absl::string_view code);

}  // namespace interlace
