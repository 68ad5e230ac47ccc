// One question to an HTTP server and its whole answer.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

struct HttpCall {
  std::string host;  // a name, or an address without brackets
  std::string port;
  std::string authority;  // for the Host header: as the URL has it
  std::string method = "GET";
  std::string target;                                        // "/v1/models?x=1"
  std::vector<std::pair<std::string, std::string>> headers;  // besides Host and Content-Length
  std::string body;
  std::optional<std::string> authorities;  // PEM, for TLS, whose certificate must name the host; nullopt: in the clear
};

struct HttpResult {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // in their order
  std::string body;
  // The first of that name, in whatever case; empty: there is none.
  absl::string_view header(absl::string_view name) const;
};

// Over a connection of its own, on the caller's thread. Unavailable, with the URL, if no whole answer came within
// `patience`; any status of HTTP is an answer. A body of more than `most` bytes is ResourceExhausted; authorities that
// are none are InvalidArgument.
absl::StatusOr<HttpResult> CallHttp(const HttpCall& call, absl::Duration patience, size_t most = size_t{64} << 20);

}  // namespace interlace
