// Writes GGUF files in memory, sound ones and, byte by byte, unsound ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace interlace {

class GgufWriter {
 public:
  enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kText, kArray, kU64, kI64, kF64 };

  // Any value, as raw bytes after the type.
  GgufWriter& Raw(const std::string& key, uint32_t type, const std::string& bytes) {
    values_ += TextBytes(key) + Bytes(type) + bytes;
    ++value_count_;
    return *this;
  }
  GgufWriter& Text(const std::string& key, const std::string& value) { return Raw(key, kText, TextBytes(value)); }
  GgufWriter& U32(const std::string& key, uint32_t value) { return Raw(key, kU32, Bytes(value)); }
  GgufWriter& F32(const std::string& key, float value) { return Raw(key, kF32, Bytes(value)); }
  GgufWriter& Flag(const std::string& key, bool value) { return Raw(key, kBool, Bytes(uint8_t{value})); }
  GgufWriter& Texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = Bytes(uint32_t{kText}) + Bytes(uint64_t{values.size()});
    for (const std::string& value : values) bytes += TextBytes(value);
    return Raw(key, kArray, bytes);
  }
  template <typename T>
  GgufWriter& Integers(const std::string& key, Type type, const std::vector<T>& values) {
    std::string bytes = Bytes(uint32_t{type}) + Bytes(uint64_t{values.size()});
    for (T value : values) bytes += Bytes(value);
    return Raw(key, kArray, bytes);
  }
  // Places the tensor after the ones before it; `offset` overrides where the table says it is.
  GgufWriter& Tensor(const std::string& name, uint32_t type, const std::vector<uint64_t>& dims,
                     const std::string& data) {
    return TensorAt(name, type, dims, data_.size(), data);
  }
  GgufWriter& TensorAt(const std::string& name, uint32_t type, const std::vector<uint64_t>& dims, uint64_t offset,
                       const std::string& data) {
    tensors_ += TextBytes(name) + Bytes(static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims) tensors_ += Bytes(dim);
    tensors_ += Bytes(type) + Bytes(offset);
    data_ += data;
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
    ++tensor_count_;
    return *this;
  }
  // Of the data; the file says so only if general.alignment is added too.
  GgufWriter& set_alignment(size_t alignment) {
    alignment_ = alignment;
    return *this;
  }
  GgufWriter& set_version(uint32_t version) {
    version_ = version;
    return *this;
  }
  GgufWriter& set_counts(uint64_t tensors, uint64_t values) {
    tensor_count_ = tensors;
    value_count_ = values;
    return *this;
  }

  std::string Build() const {
    std::string file = "GGUF" + Bytes(version_) + Bytes(tensor_count_) + Bytes(value_count_) + values_ + tensors_;
    if (!data_.empty()) file.resize((file.size() + alignment_ - 1) / alignment_ * alignment_);
    return file + data_;
  }

  template <typename T>
  static std::string Bytes(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string TextBytes(const std::string& text) { return Bytes(uint64_t{text.size()}) + text; }

 private:
  uint32_t version_ = 3;
  size_t alignment_ = 32;
  uint64_t tensor_count_ = 0, value_count_ = 0;
  std::string values_, tensors_, data_;
};

inline absl::Span<const std::byte> AsBytes(const std::string& file) {
  return absl::MakeSpan(reinterpret_cast<const std::byte*>(file.data()), file.size());
}

}  // namespace interlace
