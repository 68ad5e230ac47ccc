// Backoff: how long to wait before the next attempt.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "common/entropy.h"

namespace interlace {

// Doubles from `first` to `most`; each wait is drawn from its upper half, so that many who failed together come back
// apart. Owned by whoever attempts. Thread: one.
class Backoff {
 public:
  struct Options {
    absl::Duration first = absl::Milliseconds(100);
    absl::Duration most = absl::Seconds(2);
  };
  Backoff(const Options& options, std::unique_ptr<Entropy> entropy)
      : options_(options), entropy_(std::move(entropy)), next_(options.first) {}

  absl::Duration Next() {
    const absl::Duration full = std::exchange(next_, std::min(2 * next_, options_.most));
    return full / 2 + full / 2 * (static_cast<double>(entropy_->Next() >> 11) * 0x1p-53);
  }
  // An attempt succeeded.
  void Reset() { next_ = options_.first; }

 private:
  const Options options_;
  const std::unique_ptr<Entropy> entropy_;
  absl::Duration next_;
};

}  // namespace interlace
