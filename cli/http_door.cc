#include "cli/http_door.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_client_url.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// What the server says of a refusal: the message of an error body, else the begin of the body.
std::string WordsOf(const std::string& body) {
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error") && json["error"].is_object() && json["error"].contains("message") &&
      json["error"]["message"].is_string()) {
    return json["error"]["message"].get<std::string>();
  }
  return body.substr(0, 200);
}

absl::StatusOr<std::string> BodyOf(absl::StatusOr<HttpResult> answer, absl::string_view path) {
  RETURN_IF_ERROR(answer.status());
  if (answer->status == 200) return std::move(answer->body);
  const std::string said = absl::StrCat(path, " answers ", answer->status, ": ", WordsOf(answer->body));
  switch (answer->status) {
    case 401:
    case 403:
      return absl::PermissionDeniedError(
          absl::StrCat(said, " (an operator's key is given by --api-key or INTERLACE_API_KEY)"));
    case 404:
      return absl::NotFoundError(said);
    case 409:
      return absl::FailedPreconditionError(said);
    default:
      return answer->status >= 500 ? absl::UnavailableError(said) : absl::InvalidArgumentError(said);
  }
}

}  // namespace

absl::StatusOr<HttpDoor> HttpDoor::At(absl::string_view url, std::string api_key) {
  ASSIGN_OR_RETURN(const LoadUrl parsed, ParseLoadUrl(url));
  HttpDoor door;
  door.url_ = absl::StrCat("http://", parsed.authority, parsed.base);
  door.base_ = parsed.base;
  door.call_.host = parsed.host;
  door.call_.port = parsed.port;
  door.call_.authority = parsed.authority;
  if (!api_key.empty()) door.call_.headers.emplace_back("Authorization", "Bearer " + api_key);
  return door;
}

absl::StatusOr<HttpResult> HttpDoor::Ask(absl::string_view method, absl::string_view path, std::string json,
                                         absl::Duration patience) const {
  HttpCall call = call_;
  call.method = std::string(method);
  call.target = absl::StrCat(base_, path);
  if (!json.empty()) call.headers.emplace_back("Content-Type", "application/json");
  call.body = std::move(json);
  return CallHttp(call, patience);
}

absl::StatusOr<std::string> HttpDoor::Get(absl::string_view path, absl::Duration patience) const {
  return BodyOf(Ask("GET", path, "", patience), path);
}

absl::StatusOr<std::string> HttpDoor::Post(absl::string_view path, std::string json) const {
  return BodyOf(Ask("POST", path, std::move(json)), path);
}

}  // namespace interlace
