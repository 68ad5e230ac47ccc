// GgufCursor and the values of GGUF metadata: the part of the reader that trusts nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// Integers of every width are held as 64 bits; an array of flags as integers.
using GgufValue = std::variant<int64_t, double, bool, std::string, std::vector<std::string>, std::vector<int64_t>,
                               std::vector<double>>;

// The start of a name that a file gave, fit for a message.
std::string Quoted(absl::string_view name);

// Reads little-endian fields one after another; every read is checked against what is left. Lives within Parse.
class GgufCursor {
 public:
  // Both must outlive the cursor.
  GgufCursor(absl::Span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }
  // InvalidArgument with file and position.
  absl::Status Broken(absl::string_view what) const;

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view field) {
    if (left() < sizeof(T)) return Broken(absl::StrCat("the file ends inside ", Quoted(field)));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }
  absl::StatusOr<std::string> ReadText(absl::string_view field);
  absl::StatusOr<GgufValue> ReadValue(absl::string_view key);

 private:
  absl::StatusOr<GgufValue> ReadArray(absl::string_view key);

  absl::Span<const std::byte> bytes_;
  const std::string& file_;
  size_t position_ = 0;
};

}  // namespace interlace
