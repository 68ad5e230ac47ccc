// HttpGet: one question to an HTTP server, such as a coordinator's /health.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace interlace {

struct HttpPage {
  int status = 0;
  std::string body;
};

// `address` is HOST:PORT, or [HOST]:PORT. Unavailable if no whole answer came within `patience`.
// `api_key`: sent as a bearer's; empty: none.
absl::StatusOr<HttpPage> HttpGet(const std::string& address, const std::string& path, absl::Duration patience,
                                 const std::string& api_key = "");

}  // namespace interlace
