#include "checkpoint/file_mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<FileMapping>> FileMapping::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return absl::ErrnoToStatus(errno, absl::StrCat("model file ", path, " cannot be opened"));
  struct stat facts {};
  const bool sized = fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size > 0;
  void* mapping =
      sized ? mmap(nullptr, static_cast<size_t>(facts.st_size), PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (mapping == MAP_FAILED) return absl::InvalidArgumentError(absl::StrCat(path, ": not a file that can be mapped"));
  return std::unique_ptr<FileMapping>(
      new FileMapping(absl::MakeConstSpan(static_cast<const std::byte*>(mapping), static_cast<size_t>(facts.st_size))));
}

FileMapping::~FileMapping() { munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

void FileMapping::Drop(absl::Span<const std::byte> part) const {
  CHECK(Contains(part));
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size()) / page * page;
  // Advice only: pages that stay cost memory, not correctness.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace interlace
