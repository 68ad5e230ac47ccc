#include "coordinator/front/api_error.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr absl::string_view kParam = "interlace/param";
constexpr absl::string_view kCode = "interlace/code";
constexpr absl::string_view kShedReason = "interlace/shed-reason";
constexpr absl::string_view kRetryMs = "interlace/retry-after-ms";
constexpr absl::string_view kHopeless = "interlace/hopeless";

// Of codes for which HTTP has a status that absl has not.
constexpr std::pair<absl::string_view, int> kOwnHttp[] = {{"body_too_large", 413}, {"unsupported_encoding", 415}};

int HttpOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:  // by the server, which stops: a client that is gone reads nothing
    case absl::StatusCode::kAborted:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string PayloadOf(const absl::Status& status, absl::string_view key) {
  const absl::optional<absl::Cord> payload = status.GetPayload(key);
  return payload ? std::string(*payload) : std::string();
}

}  // namespace

ApiError ToApiError(const absl::Status& status) {
  ApiError error;
  error.http = HttpOf(status.code());
  error.message = std::string(status.message());
  error.code = PayloadOf(status, kCode);
  for (const auto& [code, http] : kOwnHttp) {
    if (error.code == code) error.http = http;
  }
  error.type = error.http == 429 ? "rate_limit_error" : error.http >= 500 ? "server_error" : "invalid_request_error";
  error.param = PayloadOf(status, kParam);
  error.retry = error.http == 409 || error.http == 429 || error.http == 500 || error.http == 503;
  error.shed_reason = PayloadOf(status, kShedReason);
  int64_t ms = 0;
  if (absl::SimpleAtoi(PayloadOf(status, kRetryMs), &ms)) error.retry_after = absl::Milliseconds(ms);
  if (!error.shed_reason.empty()) error.retry = !status.GetPayload(kHopeless);
  return error;
}

absl::Status BadField(absl::string_view field, absl::string_view why) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
  status.SetPayload(kParam, absl::Cord(field));
  return status;
}

absl::Status ForClients(absl::Status status) {
  if (!absl::IsFailedPrecondition(status)) return status;
  return WithCode(absl::InvalidArgumentError(status.message()), "kv_capacity_exceeded");
}

absl::Status ForClients(const RequestEnd& end) {
  absl::Status status = ForClients(end.status);
  if (!end.shed) return status;
  status = WithCode(std::move(status), "predicted_slo_miss");
  status.SetPayload(kShedReason, absl::Cord(end.shed->reason));
  status = WithRetryAfter(std::move(status), end.shed->retry_after);
  if (end.shed->hopeless) status.SetPayload(kHopeless, absl::Cord());
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration wait) {
  const absl::Duration whole = absl::Ceil(wait, absl::Milliseconds(1));  // who comes sooner comes too soon
  status.SetPayload(kRetryMs, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(whole))));
  return status;
}

absl::Status WithCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kCode, absl::Cord(code));
  return status;
}

}  // namespace interlace
