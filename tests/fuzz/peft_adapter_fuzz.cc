// Any bytes as the two files of an adapter, up to the first NUL one and behind it the other: a status that names the
// folder, or matrices that lie inside the second.
#include <cstdint>
#include <cstring>

#include "checkpoint/peft_adapter.h"
#include "common/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  const void* nul = size == 0 ? nullptr : std::memchr(data, 0, size);
  const size_t config = nul == nullptr ? size : static_cast<size_t>(static_cast<const uint8_t*>(nul) - data);
  const size_t rest = nul == nullptr ? size : config + 1;
  const absl::Span<const std::byte> weights =
      absl::MakeSpan(reinterpret_cast<const std::byte*>(data) + rest, size - rest);
  const auto adapter = PeftAdapter::Parse({reinterpret_cast<const char*>(data), config}, weights, "fuzz.adapter");
  if (!adapter.ok()) {
    CHECK(adapter.status().message().find("fuzz.adapter") != absl::string_view::npos);
    return 0;
  }
  for (const AdaptedMatrix& m : (*adapter)->matrices()) {
    CHECK(m.layer >= 0 && m.a->shape.size() == 2 && m.b->shape.size() == 2 && m.a->shape[0] == m.b->shape[1]);
    for (const SafetensorsTensor* tensor : {m.a, m.b}) {
      CHECK(tensor->data.data() >= weights.data());
      CHECK(tensor->data.data() + tensor->data.size() <= weights.data() + weights.size());
    }
  }
  return 0;
}
