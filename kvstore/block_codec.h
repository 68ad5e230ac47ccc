// The stored form of a block: a header with checksums bound to its key, then the payload.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/transport.h"
#include "kvstore/block_id.h"

namespace interlace {

// Header (64 bytes, little-endian): magic, version (2), codec, layer, heads, block id, payload bytes, eight reserved
// zero bytes, XXH3-64 of the payload seeded with the key's digest, XXH3-64 of the header itself. Host frames, tiers and
// messages all hold a block in this form, so that it is encoded once.
inline constexpr size_t kBlockHeaderBytes = 64;

// Writes the header of `payload` to header[0, kBlockHeaderBytes): for a frame that holds the payload already.
void EncodeHeader(const BlockKey& key, absl::Span<const std::byte> payload, char* header);

SharedBytes EncodeBlock(const BlockKey& key, absl::Span<const std::byte> payload);

// DataLoss names what of `stored` did not match: magic, version, codec, key, length, header or payload checksum.
absl::Status VerifyStored(const BlockKey& key, absl::string_view stored, size_t payload_bytes);

// Verifies, then copies the payload to `out`. An error leaves `out` as it was.
absl::Status DecodeBlock(const BlockKey& key, absl::string_view stored, absl::Span<std::byte> out);

}  // namespace interlace
