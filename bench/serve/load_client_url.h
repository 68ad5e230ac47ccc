// A server's URL, taken apart.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

struct LoadUrl {
  std::string host;  // without the brackets of an IPv6 address
  std::string port;
  std::string authority;  // as in the URL, for the Host header
  std::string base;       // "" or "/BASE", without a slash at the end and without "/v1"
};

// "http://HOST[:PORT][/BASE]", or "HOST:PORT". InvalidArgument names --url, the value and the way out.
absl::StatusOr<LoadUrl> ParseLoadUrl(absl::string_view url);

}  // namespace interlace
