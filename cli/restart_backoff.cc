#include "cli/restart_backoff.h"

#include <algorithm>

namespace interlace {
namespace {

constexpr absl::Duration kFirstWait = absl::Milliseconds(250);
constexpr absl::Duration kLongestWait = absl::Seconds(30);
constexpr absl::Duration kForgive = absl::Seconds(5);
constexpr int kMostCounted = 8;  // 250 ms doubled that often is more than the longest wait

}  // namespace

absl::Time RestartBackoff::Ended(absl::Time now) {
  const double forgiven = absl::FDivDuration(now - started_, kForgive);
  count_ = forgiven >= count_ ? 0 : count_ - static_cast<int>(forgiven);
  const absl::Duration wait =
      count_ == 0 ? absl::ZeroDuration() : std::min(kLongestWait, kFirstWait * (int64_t{1} << (count_ - 1)));
  count_ = std::min(count_ + 1, kMostCounted);
  return now + wait;
}

}  // namespace interlace
