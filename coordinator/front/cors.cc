#include "coordinator/front/cors.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "common/loopback.h"

namespace interlace {
namespace {

constexpr char kReadable[] =
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, x-interlace-leader, "
    "x-interlace-cache, "
    "x-ratelimit-limit-requests, "
    "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

}  // namespace

CorsPolicy::CorsPolicy(absl::string_view setting, absl::string_view host) {
  if (setting == "auto") {
    any_ = IsLoopback(host);
    return;
  }
  if (setting == "none") return;
  for (absl::string_view origin : absl::StrSplit(setting, ',', absl::SkipWhitespace())) {
    origin = absl::StripAsciiWhitespace(origin);
    any_ |= origin == "*";
    origins_.emplace_back(origin);
  }
}

bool CorsPolicy::Allows(absl::string_view origin) const {
  return !origin.empty() && (any_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end());
}

CorsPolicy::Headers CorsPolicy::ForAnswer(absl::string_view origin) const {
  if (!Allows(origin)) return {};
  Headers headers = {{"Access-Control-Allow-Origin", any_ ? "*" : std::string(origin)},
                     {"Access-Control-Expose-Headers", kReadable}};
  if (!any_) headers.emplace_back("Vary", "Origin");
  return headers;
}

CorsPolicy::Headers CorsPolicy::ForPreflight(absl::string_view origin, absl::string_view headers) const {
  Headers out = ForAnswer(origin);
  out.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  out.emplace_back("Access-Control-Allow-Headers", headers.empty() ? "*" : std::string(headers));
  out.emplace_back("Access-Control-Max-Age", "600");
  return out;
}

}  // namespace interlace
