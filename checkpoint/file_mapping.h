// FileMapping: a file's bytes, mapped read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// Owned by the reader of a model's file; immutable, any thread. The trap: views of bytes() die with it.
class FileMapping {
 public:
  // NotFound if the file is missing; InvalidArgument naming the path of what is no regular file or is empty.
  static absl::StatusOr<std::unique_ptr<FileMapping>> Open(const std::string& path);
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  absl::Span<const std::byte> bytes() const { return bytes_; }
  absl::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  bool Contains(absl::Span<const std::byte> part) const {
    return part.data() >= bytes_.data() && part.data() + part.size() <= bytes_.data() + bytes_.size();
  }
  // The pages wholly inside `part` leave resident memory; a later read takes them from the file again.
  void Drop(absl::Span<const std::byte> part) const;

 private:
  explicit FileMapping(absl::Span<const std::byte> bytes) : bytes_(bytes) {}
  const absl::Span<const std::byte> bytes_;
};

}  // namespace interlace
