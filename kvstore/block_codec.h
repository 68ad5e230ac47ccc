// The stored form of a block: a header with checksums bound to its key, then the payload.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/transport.h"
#include "kvstore/block_key.h"

namespace interlace {

// Header (64 bytes, little-endian): magic, version, codec, layer, hash, generation, payload bytes, XXH3-64 of the
// payload seeded with the key's digest, XXH3-64 of the header itself.
inline constexpr size_t kBlockHeaderBytes = 64;

SharedBytes EncodeBlock(const BlockKey& key, absl::Span<const std::byte> payload);

// Verifies and copies the payload to `out`. DataLoss names what did not match (magic, key, length, header or payload
// checksum) and leaves `out` unspecified: a caller must treat it as never read.
absl::Status DecodeBlock(const BlockKey& key, absl::string_view stored, absl::Span<std::byte> out);

}  // namespace interlace
