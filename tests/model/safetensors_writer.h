// SafetensorsWriter: a safetensors file out of tensors. Tests only.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace interlace {

class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name, dtype;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::vector<Tensor> tensors;

  std::string Header() const {
    std::vector<std::string> entries = {R"("__metadata__":{"format":"pt"})"};
    size_t at = 0;
    for (const Tensor& t : tensors) {
      entries.push_back(absl::StrCat("\"", t.name, "\":{\"dtype\":\"", t.dtype, "\",\"shape\":[",
                                     absl::StrJoin(t.shape, ","), "],\"data_offsets\":[", at, ",", at + t.data.size(),
                                     "]}"));
      at += t.data.size();
    }
    return absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  }
  std::string Data() const {
    std::string data;
    for (const Tensor& t : tensors) data += t.data;
    return data;
  }
  std::string Bytes() const { return File(Header(), Data()); }
  // Any header over any data.
  static std::string File(const std::string& header, const std::string& data) {
    std::string length(8, '\0');
    const auto size = static_cast<uint64_t>(header.size());
    std::memcpy(length.data(), &size, sizeof size);
    return length + header + data;
  }
};

}  // namespace interlace
