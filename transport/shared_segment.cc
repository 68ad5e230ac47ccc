#include "transport/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/transport_address.h"

namespace interlace {
namespace {

absl::StatusOr<std::byte*> Map(int descriptor, int64_t bytes) {
  void* const data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mapping ", bytes, " bytes of shared memory: ", std::strerror(errno)));
  }
  return static_cast<std::byte*>(data);
}

}  // namespace

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<SharedSegment> SharedSegment::Create(int64_t bytes) {
  const int descriptor = memfd_create("interlace", MFD_CLOEXEC);
  if (descriptor < 0) return absl::UnavailableError(absl::StrCat("memfd_create: ", std::strerror(errno)));
  // Reserves the pages: a machine that has not so much says so here, not by a signal at the first write.
  const int failed = posix_fallocate(descriptor, 0, bytes);
  absl::StatusOr<std::byte*> data =
      failed == 0
          ? Map(descriptor, bytes)
          : absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes of shared memory: ", std::strerror(failed)));
  if (!data.ok()) {
    close(descriptor);
    return data.status();
  }
  return SharedSegment(*data, bytes, descriptor);
}

absl::StatusOr<SharedSegment> SharedSegment::Open(pid_t process, int descriptor, int64_t bytes) {
  const std::string path = absl::StrCat("/proc/", process, "/fd/", descriptor);
  const int opened = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened < 0) {
    return absl::UnavailableError(
        absl::StrCat("shared memory of process ", process, " cannot be opened: ", std::strerror(errno)));
  }
  struct stat facts {};
  absl::StatusOr<std::byte*> data = absl::InvalidArgumentError(
      absl::StrCat("descriptor ", descriptor, " of process ", process, " is no shared memory of ", bytes, " bytes"));
  if (fstat(opened, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size == bytes) data = Map(opened, bytes);
  close(opened);  // the mapping stays
  if (!data.ok()) return data.status();
  return SharedSegment(*data, bytes, -1);
}

std::string ThisProcessSpace() {
  struct stat space {};
  stat("/proc/self/ns/pid", &space);
  return absl::StrCat(ThisMachine(), ".", space.st_ino, ".", geteuid());
}

}  // namespace interlace
