#include "client/retry.h"

#include <algorithm>

namespace interlace {

std::optional<absl::Duration> RetryIn(const CallEnd& end, int tries, absl::Duration first_wait, double chance) {
  const bool away = absl::IsUnavailable(end.status);
  const bool full = absl::IsResourceExhausted(end.status) && end.retry_after.has_value();
  const bool name_is_held = absl::IsAlreadyExists(end.status) && tries > 1;
  if (end.hopeless || !(away || full || name_is_held)) return std::nullopt;
  const absl::Duration longest = 20 * first_wait;
  const absl::Duration wait = std::min(longest, first_wait * (1 << std::min(tries - 1, 8)));
  return std::max(wait * (1 - chance / 2), end.retry_after.value_or(absl::ZeroDuration()));
}

}  // namespace interlace
