// ByteBudget: how many bytes of something all connections together may hold.
#pragma once

#include <cstddef>

namespace interlace {

// Owned by the door; thread: the loop's.
class ByteBudget {
 public:
  explicit ByteBudget(size_t most) : most_(most) {}
  size_t most() const { return most_; }
  size_t held() const { return held_; }

 private:
  friend class ByteShare;
  const size_t most_;
  size_t held_ = 0;
};

// What one connection holds of it; given back when it dies. Owned by the session. The budget outlives it.
class ByteShare {
 public:
  explicit ByteShare(ByteBudget& budget) : budget_(budget) {}
  ~ByteShare() { Hold(0); }
  ByteShare(const ByteShare&) = delete;
  ByteShare& operator=(const ByteShare&) = delete;
  // It holds so many from now on. False, and nothing changes: all together would hold too many.
  bool Hold(size_t bytes) {
    const size_t held = budget_.held_ - held_ + bytes;
    if (bytes > held_ && held > budget_.most_) return false;
    budget_.held_ = held;
    held_ = bytes;
    return true;
  }

 private:
  ByteBudget& budget_;
  size_t held_ = 0;
};

}  // namespace interlace
