// Any bytes as a stored block: DataLoss, unless they are exactly what EncodeBlock makes of their payload.
#include <cstdint>
#include <string>
#include <vector>

#include "common/check.h"
#include "kvstore/block_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  const absl::string_view stored(reinterpret_cast<const char*>(data), size);
  const BlockKey key{{0x1111, 0x2222}, LayerId{3}, {4, 8}};
  for (const size_t payload_bytes : {size > kBlockHeaderBytes ? size - kBlockHeaderBytes : size_t{0}, size_t{32}}) {
    const absl::Status status = VerifyStored(key, stored, payload_bytes);
    std::vector<std::byte> out(payload_bytes);
    CHECK(DecodeBlock(key, stored, absl::MakeSpan(out)).ok() == status.ok());
    if (status.ok()) {
      CHECK(*EncodeBlock(key, out) == stored);
    } else {
      CHECK(absl::IsDataLoss(status));
    }
  }
  // The same bytes as a payload come back as they are, and under no other key.
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const SharedBytes encoded = EncodeBlock(key, {bytes, size});
  CHECK(VerifyStored(key, *encoded, size).ok());
  CHECK(!VerifyStored({key.block, LayerId{4}, key.heads}, *encoded, size).ok());
  return 0;
}
