// SharedSegment: memory that processes of one machine read together.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace interlace {

// A mapping of anonymous memory with a descriptor; the memory lives as long as anybody maps it, and no longer: it has
// no name in any file system, so nothing is left behind by a process that is killed. Movable; thread: any.
class SharedSegment {
 public:
  SharedSegment() = default;
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  ~SharedSegment();

  // Zeroed. ResourceExhausted: the machine has not so much.
  static absl::StatusOr<SharedSegment> Create(int64_t bytes);
  // Another process's, of which it said process id and descriptor. Unavailable: it is gone, or may not be looked at
  // (another user, another process namespace). InvalidArgument: it is not of `bytes`.
  static absl::StatusOr<SharedSegment> Open(pid_t process, int descriptor, int64_t bytes);

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }  // of its creator; -1: opened, not created

 private:
  SharedSegment(std::byte* data, int64_t bytes, int descriptor) : data_(data), bytes_(bytes), descriptor_(descriptor) {}
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int descriptor_ = -1;
};

// Identity of those who can open each other's segments: machine boot, process namespace and user.
std::string ThisProcessSpace();

}  // namespace interlace
