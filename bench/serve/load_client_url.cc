#include "bench/serve/load_client_url.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace interlace {

absl::StatusOr<LoadUrl> ParseLoadUrl(absl::string_view url) {
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("--url ", url, " ", what, "; give http://HOST:PORT, such as http://127.0.0.1:8000"));
  };
  absl::string_view rest = url;
  if (absl::StartsWith(rest, "https://")) {
    return fault("is https, which the generator does not speak (put a proxy before it that ends TLS)");
  }
  absl::ConsumePrefix(&rest, "http://");
  if (absl::StrContains(rest, "://")) return fault("is of a scheme that is not known");
  LoadUrl out;
  const size_t slash = rest.find('/');
  out.authority = std::string(rest.substr(0, slash));
  absl::string_view base = slash == absl::string_view::npos ? "" : rest.substr(slash);
  while (absl::ConsumeSuffix(&base, "/")) {
  }
  absl::ConsumeSuffix(&base, "/v1");  // the OpenAI client's base URL ends so; every path here begins with it
  out.base = std::string(base);

  absl::string_view host = out.authority;
  const size_t colon = host.rfind(':'), bracket = host.rfind(']');
  out.port = "80";
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket)) {
    out.port = std::string(host.substr(colon + 1));
    host = host.substr(0, colon);
  }
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  out.host = std::string(host);
  int port = 0;
  if (out.host.empty()) return fault("names no host");
  if (!absl::SimpleAtoi(out.port, &port) || port < 1 || port > 65535) return fault("has no port between 1 and 65535");
  const bool strange = std::any_of(url.begin(), url.end(), [](unsigned char c) { return c <= ' ' || c == 127; });
  if (strange) return fault("has blanks or control characters");
  return out;
}

}  // namespace interlace
