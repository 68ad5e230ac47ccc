#include "checkpoint/gguf_values.h"

#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Value types by their number in the file.
enum class ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

template <typename T>
absl::StatusOr<int64_t> ReadIntegerAs(GgufCursor& cursor, absl::string_view key) {
  ASSIGN_OR_RETURN(const T value, cursor.Read<T>(key));
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return cursor.Broken(absl::StrCat("value ", value, " of ", Quoted(key), " does not fit 63 bits"));
    }
  }
  return static_cast<int64_t>(value);
}

bool IsInteger(ValueType type) {
  return type <= ValueType::kInt32 || type == ValueType::kUint64 || type == ValueType::kInt64;
}

// Requires: IsInteger(type).
absl::StatusOr<int64_t> ReadInteger(GgufCursor& cursor, ValueType type, absl::string_view key) {
  switch (type) {
    case ValueType::kUint8:
      return ReadIntegerAs<uint8_t>(cursor, key);
    case ValueType::kInt8:
      return ReadIntegerAs<int8_t>(cursor, key);
    case ValueType::kUint16:
      return ReadIntegerAs<uint16_t>(cursor, key);
    case ValueType::kInt16:
      return ReadIntegerAs<int16_t>(cursor, key);
    case ValueType::kUint32:
      return ReadIntegerAs<uint32_t>(cursor, key);
    case ValueType::kInt32:
      return ReadIntegerAs<int32_t>(cursor, key);
    case ValueType::kUint64:
      return ReadIntegerAs<uint64_t>(cursor, key);
    default:
      return ReadIntegerAs<int64_t>(cursor, key);
  }
}

absl::StatusOr<double> ReadReal(GgufCursor& cursor, ValueType type, absl::string_view key) {
  if (type == ValueType::kFloat64) return cursor.Read<double>(key);
  ASSIGN_OR_RETURN(const float value, cursor.Read<float>(key));
  return static_cast<double>(value);
}

absl::StatusOr<bool> ReadFlag(GgufCursor& cursor, absl::string_view key) {
  ASSIGN_OR_RETURN(const uint8_t flag, cursor.Read<uint8_t>(key));
  if (flag > 1) return cursor.Broken(absl::StrCat("flag ", Quoted(key), " is ", flag, ", not 0 or 1"));
  return flag == 1;
}

// Bytes that an element of an array takes at least; zero: no such type.
size_t LeastBytes(ValueType type) {
  switch (type) {
    case ValueType::kUint8:
    case ValueType::kInt8:
    case ValueType::kBool:
      return 1;
    case ValueType::kUint16:
    case ValueType::kInt16:
      return 2;
    case ValueType::kUint32:
    case ValueType::kInt32:
    case ValueType::kFloat32:
      return 4;
    case ValueType::kString:
    case ValueType::kUint64:
    case ValueType::kInt64:
    case ValueType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

template <typename T, typename ReadOne>
absl::StatusOr<GgufValue> ReadList(uint64_t count, ReadOne read_one) {
  std::vector<T> list;
  list.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(T value, read_one());
    list.push_back(std::move(value));
  }
  return GgufValue(std::move(list));
}

}  // namespace

std::string Quoted(absl::string_view name) {
  constexpr size_t kLongest = 80;
  return absl::StrCat("'", absl::CHexEscape(name.substr(0, kLongest)), name.size() > kLongest ? "..." : "", "'");
}

absl::Status GgufCursor::Broken(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what, " (before byte ", position_, ")"));
}

absl::StatusOr<std::string> GgufCursor::ReadText(absl::string_view field) {
  ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(field));
  if (length > left()) {
    return Broken(absl::StrCat("length ", length, " of ", Quoted(field), " goes past the end of the file"));
  }
  std::string text(reinterpret_cast<const char*>(bytes_.data() + position_), length);
  position_ += length;
  return text;
}

absl::StatusOr<GgufValue> GgufCursor::ReadArray(absl::string_view key) {
  ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(key));
  ASSIGN_OR_RETURN(const uint64_t count, Read<uint64_t>(key));
  const ValueType type{number};
  if (type == ValueType::kArray) return Broken(absl::StrCat(Quoted(key), " is an array of arrays: not read"));
  const size_t least_bytes = LeastBytes(type);
  if (least_bytes == 0) {
    return Broken(absl::StrCat("element type ", number, " of array ", Quoted(key), " is unknown"));
  }
  if (count > left() / least_bytes) {
    return Broken(absl::StrCat("count ", count, " of array ", Quoted(key), " goes past the end of the file"));
  }
  switch (type) {
    case ValueType::kString:
      return ReadList<std::string>(count, [&] { return ReadText(key); });
    case ValueType::kFloat32:
    case ValueType::kFloat64:
      return ReadList<double>(count, [&] { return ReadReal(*this, type, key); });
    case ValueType::kBool:
      return ReadList<int64_t>(count, [&] { return ReadFlag(*this, key); });
    default:
      return ReadList<int64_t>(count, [&] { return ReadInteger(*this, type, key); });
  }
}

absl::StatusOr<GgufValue> GgufCursor::ReadValue(absl::string_view key) {
  ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(key));
  const ValueType type{number};
  if (IsInteger(type)) return ReadInteger(*this, type, key);
  switch (type) {
    case ValueType::kFloat32:
    case ValueType::kFloat64:
      return ReadReal(*this, type, key);
    case ValueType::kBool:
      return ReadFlag(*this, key);
    case ValueType::kString:
      return ReadText(key);
    case ValueType::kArray:
      return ReadArray(key);
    default:
      return Broken(absl::StrCat("value type ", number, " of ", Quoted(key), " is unknown"));
  }
}

}  // namespace interlace
