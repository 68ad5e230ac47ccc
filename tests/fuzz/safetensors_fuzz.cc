// Any bytes as a safetensors file: InvalidArgument that names the file, or tensors that lie inside it.
#include <cstdint>

#include "checkpoint/safetensors.h"
#include "common/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  const absl::Span<const std::byte> bytes = absl::MakeSpan(reinterpret_cast<const std::byte*>(data), size);
  auto file = SafetensorsFile::Parse(bytes, "fuzz.safetensors");
  if (!file.ok()) {
    CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(file.status().message().find("fuzz.safetensors") != absl::string_view::npos);
    return 0;
  }
  unsigned sum = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    CHECK(tensor.data.empty() || (*file)->Contains(tensor.data));
    for (std::byte byte : tensor.data) sum += static_cast<unsigned>(byte);
  }
  return static_cast<int>(sum & 0);
}
