// Waiting in tests: on conditions, with a deadline that only a broken build reaches.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/transport.h"

namespace interlace {

inline constexpr absl::Duration kPatience = absl::Seconds(30);

// Values that callbacks deliver.
template <typename T>
class Collected {
 public:
  void Add(T value) {
    absl::MutexLock lock(&mutex_);
    values_.push_back(std::move(value));
  }
  // False iff fewer than `count` came in time.
  bool WaitFor(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&] { return values_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), kPatience);
  }
  size_t size() {
    absl::MutexLock lock(&mutex_);
    return values_.size();
  }
  std::vector<T> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(values_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<T> values_;
};

inline SharedBytes Shared(std::string bytes) { return std::make_shared<const std::string>(std::move(bytes)); }

// Bytes that depend on the seed, so that a swapped or cut body is noticed.
inline std::string Pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < size; ++i) {
    if (i % 8 == 0) state = state * 6364136223846793005 + 1442695040888963407;
    bytes[i] = static_cast<char>(state >> (8 * (i % 8)));
  }
  return bytes;
}

}  // namespace interlace
