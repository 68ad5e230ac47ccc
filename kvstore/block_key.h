// BlockKey: the identity of one layer's KV of one block of tokens.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/ids.h"

namespace interlace {

// Chained hash: names a block of tokens together with everything before it.
struct BlockHash {
  uint64_t high = 0;
  uint64_t low = 0;
  friend bool operator==(const BlockHash&, const BlockHash&) = default;
};

// What seeds the chain: two models, two geometries or two tenants never share a hash.
struct ChainSeed {
  absl::string_view model_digest;
  int32_t block_tokens = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  absl::string_view dtype = "F32";
  absl::string_view salt;  // of the tenant, derived by the server
};
BlockHash RootHash(const ChainSeed& seed);
// XXH3-128 over (parent, tokens). Requires: a full block of tokens.
BlockHash ChainHash(const BlockHash& parent, absl::Span<const int32_t> tokens);

struct BlockKey {
  BlockHash hash;
  Generation generation{};
  LayerId layer{};
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockKey& k) {
    return H::combine(std::move(h), k.hash.high, k.hash.low, Value(k.generation), Value(k.layer));
  }
};
inline constexpr size_t kEncodedKeyBytes = 28;
// Fixed 28 bytes, big-endian, generation first, so that an ordered store keeps a request's blocks together.
std::string EncodeKey(const BlockKey& key);
// False iff the bytes are not 28.
bool DecodeKey(absl::string_view bytes, BlockKey* key);
std::string KeyText(const BlockKey& key);  // for logs

}  // namespace interlace
