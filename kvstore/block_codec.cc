#include "kvstore/block_codec.h"

#include <xxhash.h>

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kvstore/byte_order.h"

namespace interlace {
namespace {

constexpr uint32_t kMagic = 0x42564b49;  // "IKVB"
constexpr uint16_t kVersion = 2;         // 1 had a generation in place of the heads
constexpr uint16_t kRawCodec = 0;        // the payload as it was on the device

// Offsets of the header's fields.
constexpr size_t kMagicAt = 0, kVersionAt = 4, kCodecAt = 6, kLayerAt = 8, kHeadsBeginAt = 12, kHeadsEndAt = 14,
                 kBlockHighAt = 16, kBlockLowAt = 24, kPayloadBytesAt = 32, kReservedAt = 40, kPayloadSumAt = 48,
                 kHeaderSumAt = 56;

uint64_t KeyDigest(const BlockKey& key) {
  const std::string bytes = EncodeKey(key);
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t PayloadSum(const BlockKey& key, const void* payload, size_t bytes) {
  return XXH3_64bits_withSeed(payload, bytes, KeyDigest(key));
}

absl::Status Mismatch(const BlockKey& key, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("stored ", KeyText(key), ": ", what, " does not match"));
}

absl::Status VerifyHeader(const BlockKey& key, absl::string_view stored, size_t payload_bytes) {
  const char* header = stored.data();
  if (stored.size() < kBlockHeaderBytes) return Mismatch(key, absl::StrCat("length ", stored.size()));
  if (LoadLittle<uint32_t>(header + kMagicAt) != kMagic) return Mismatch(key, "magic");
  if (LoadLittle<uint64_t>(header + kHeaderSumAt) != XXH3_64bits(header, kHeaderSumAt)) {
    return Mismatch(key, "header checksum");
  }
  if (LoadLittle<uint16_t>(header + kVersionAt) != kVersion) return Mismatch(key, "version");
  if (LoadLittle<uint16_t>(header + kCodecAt) != kRawCodec) return Mismatch(key, "codec");
  const BlockKey found{{LoadLittle<uint64_t>(header + kBlockHighAt), LoadLittle<uint64_t>(header + kBlockLowAt)},
                       LayerId{LoadLittle<int32_t>(header + kLayerAt)},
                       {LoadLittle<int16_t>(header + kHeadsBeginAt), LoadLittle<int16_t>(header + kHeadsEndAt)}};
  if (found != key) return Mismatch(key, absl::StrCat("key (", KeyText(found), ")"));
  const uint64_t length = LoadLittle<uint64_t>(header + kPayloadBytesAt);
  if (length != payload_bytes || stored.size() - kBlockHeaderBytes != payload_bytes) {
    return Mismatch(key, absl::StrCat("length (", length, " stated, ", stored.size() - kBlockHeaderBytes, " stored, ",
                                      payload_bytes, " wanted)"));
  }
  return absl::OkStatus();
}

}  // namespace

void EncodeHeader(const BlockKey& key, absl::Span<const std::byte> payload, char* header) {
  StoreLittle(kMagic, header + kMagicAt);
  StoreLittle(kVersion, header + kVersionAt);
  StoreLittle(kRawCodec, header + kCodecAt);
  StoreLittle(Value(key.layer), header + kLayerAt);
  StoreLittle(key.heads.begin, header + kHeadsBeginAt);
  StoreLittle(key.heads.end, header + kHeadsEndAt);
  StoreLittle(key.block.high, header + kBlockHighAt);
  StoreLittle(key.block.low, header + kBlockLowAt);
  StoreLittle(static_cast<uint64_t>(payload.size()), header + kPayloadBytesAt);
  StoreLittle(uint64_t{0}, header + kReservedAt);
  StoreLittle(static_cast<uint64_t>(PayloadSum(key, payload.data(), payload.size())), header + kPayloadSumAt);
  StoreLittle(static_cast<uint64_t>(XXH3_64bits(header, kHeaderSumAt)), header + kHeaderSumAt);
}

SharedBytes EncodeBlock(const BlockKey& key, absl::Span<const std::byte> payload) {
  char header[kBlockHeaderBytes];
  EncodeHeader(key, payload, header);
  auto stored = std::make_shared<std::string>();
  stored->reserve(kBlockHeaderBytes + payload.size());  // appending then copies once and zero-fills nothing
  stored->append(header, kBlockHeaderBytes);
  stored->append(reinterpret_cast<const char*>(payload.data()), payload.size());
  return stored;
}

absl::Status VerifyStored(const BlockKey& key, absl::string_view stored, size_t payload_bytes) {
  if (absl::Status status = VerifyHeader(key, stored, payload_bytes); !status.ok()) return status;
  const char* payload = stored.data() + kBlockHeaderBytes;
  if (LoadLittle<uint64_t>(stored.data() + kPayloadSumAt) != PayloadSum(key, payload, payload_bytes)) {
    return Mismatch(key, "payload checksum");
  }
  return absl::OkStatus();
}

absl::Status DecodeBlock(const BlockKey& key, absl::string_view stored, absl::Span<std::byte> out) {
  if (absl::Status status = VerifyStored(key, stored, out.size()); !status.ok()) return status;
  if (!out.empty()) std::memcpy(out.data(), stored.data() + kBlockHeaderBytes, out.size());
  return absl::OkStatus();
}

}  // namespace interlace
