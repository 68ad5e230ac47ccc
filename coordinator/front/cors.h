// CorsPolicy: pages of which origins may ask this server from a browser.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// Immutable; any thread. Owned by the HTTP front.
class CorsPolicy {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;
  // `setting` is http.cors. With "auto" any origin may ask where `host` is reached from this machine alone; a page can
  // then use the model, but has no more of this machine than that.
  CorsPolicy(absl::string_view setting, absl::string_view host);
  bool Allows(absl::string_view origin) const;
  // For an answer to a page of `origin`; none if it has none or may not ask.
  Headers ForAnswer(absl::string_view origin) const;
  // For an answer to a preflight that asks for `headers`. Requires: Allows.
  Headers ForPreflight(absl::string_view origin, absl::string_view headers) const;

 private:
  bool any_ = false;
  std::vector<std::string> origins_;
};

}  // namespace interlace
