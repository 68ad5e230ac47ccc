// GgufWriter: a GGUF v3 file out of metadata and tensors. Tests only.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/gguf.h"

namespace interlace {

struct WrittenTensor {
  std::string name;
  uint32_t type;
  std::vector<int64_t> dims;  // dims[0]: columns
  std::string data;
};

// Fields in the order they were set; `tensors` and `metadata` may be edited before Bytes().
class GgufWriter {
 public:
  struct Field {
    std::string key;
    std::string value;  // type and value as the file has them
  };
  std::vector<Field> metadata;
  std::vector<WrittenTensor> tensors;

  void SetText(absl::string_view key, absl::string_view text) { Set(key, Number(kText) + Text(text)); }
  void SetInteger(absl::string_view key, uint32_t value) { Set(key, Number(kUint32) + Number(value)); }
  void SetReal(absl::string_view key, float value) { Set(key, Number(kFloat32) + Number(value)); }
  void SetFlag(absl::string_view key, bool value) { Set(key, Number(kBool) + std::string(1, value ? 1 : 0)); }
  void SetTexts(absl::string_view key, const std::vector<std::string>& texts) {
    std::string value = Number(kArray) + Number(kText) + Number(static_cast<uint64_t>(texts.size()));
    for (const std::string& text : texts) value += Text(text);
    Set(key, value);
  }
  void SetIntegers(absl::string_view key, const std::vector<int32_t>& values) {
    std::string value = Number(kArray) + Number(kInt32) + Number(static_cast<uint64_t>(values.size()));
    for (int32_t v : values) value += Number(v);
    Set(key, value);
  }
  void Remove(absl::string_view key) {
    std::erase_if(metadata, [&](const Field& field) { return field.key == key; });
  }
  void RemoveTensor(absl::string_view name) {
    std::erase_if(tensors, [&](const WrittenTensor& tensor) { return tensor.name == name; });
  }
  // Requires: there is one of that name.
  WrittenTensor& TensorNamed(absl::string_view name) {
    for (WrittenTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    std::abort();
  }

  std::string Bytes() const {
    std::string header = "GGUF" + Number(uint32_t{3}) + Number(static_cast<uint64_t>(tensors.size())) +
                         Number(static_cast<uint64_t>(metadata.size()));
    for (const Field& field : metadata) header += Text(field.key) + field.value;
    std::string data;
    for (const WrittenTensor& tensor : tensors) {
      Pad(data);
      header += Text(tensor.name) + Number(static_cast<uint32_t>(tensor.dims.size()));
      for (int64_t dim : tensor.dims) header += Number(static_cast<uint64_t>(dim));
      header += Number(tensor.type) + Number(static_cast<uint64_t>(data.size()));
      data += tensor.data;
    }
    Pad(data);
    Pad(header);
    return header + data;
  }

 private:
  static constexpr uint32_t kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kText = 8, kArray = 9;

  template <typename T>
  static std::string Number(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string Text(absl::string_view text) {
    return Number(static_cast<uint64_t>(text.size())) + std::string(text);
  }
  static void Pad(std::string& bytes) { bytes.resize((bytes.size() + 31) / 32 * 32); }
  void Set(absl::string_view key, std::string value) {
    Remove(key);
    metadata.push_back({std::string(key), std::move(value)});
  }
};

}  // namespace interlace
