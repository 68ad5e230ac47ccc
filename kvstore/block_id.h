// BlockId: the name of a sealed block of tokens, made of what its KV depends on.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/ids.h"

namespace interlace {

// 128 bits of a keyed cryptographic hash. Two requests with the same tokens up to the end of a block, under the same
// ChainSeed, give the block the same id; nobody can make up tokens that give a chosen id without the key. All zeros is
// no block: the parent of the first one.
struct BlockId {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const BlockId&, const BlockId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockId& id) {
    return H::combine(std::move(h), id.high, id.low);
  }
};
std::string IdText(const BlockId& id);  // 32 hexadecimal digits, for logs

// Everything besides the tokens that the bytes of a block depend on, and who may share it. Blocks under two seeds that
// differ in any field never share an id.
struct ChainSeed {
  std::string model_digest;
  std::string numerics;  // of the ranks: backend and op table, "cpu/avx512bf16"
  std::string dtype;     // of the KV, "BF16"
  int32_t block_tokens = 0;
  int32_t kv_heads = 0;  // of the model, all shards together
  int32_t head_dim = 0;
  std::string adapter;  // digest of the LoRA adapter; empty: none
  std::string salt;     // of the tenant, derived by the server
  std::string secret;   // of the cluster; empty: none is set
  friend bool operator==(const ChainSeed&, const ChainSeed&) = default;
};

// Names the blocks of one tenant on one replica. A value; any thread. Each id covers its block's tokens and, through
// its parent, all tokens before: id(i) = BLAKE2b-128(key + id(i - 1) + tokens of block i), the key being a BLAKE2b-256
// of the seed. A secret prefix of one length is a key for BLAKE2b, whose digests cannot be extended.
class BlockChain {
 public:
  explicit BlockChain(const ChainSeed& seed);
  // Requires: `tokens` is one whole block.
  BlockId Next(const BlockId& parent, absl::Span<const int32_t> tokens) const;

 private:
  std::array<unsigned char, 32> key_;
};

// The KV heads [begin, end) of the model that a shard holds.
struct HeadRange {
  int16_t begin = 0;
  int16_t end = 0;
  friend auto operator<=>(const HeadRange&, const HeadRange&) = default;
};

// The identity of one stored extent: K and V of one block in one layer, of one shard's heads.
struct BlockKey {
  BlockId block;
  LayerId layer{};
  HeadRange heads;
  friend auto operator<=>(const BlockKey&, const BlockKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockKey& k) {
    return H::combine(std::move(h), k.block, Value(k.layer), k.heads.begin, k.heads.end);
  }
};
inline constexpr size_t kEncodedKeyBytes = 24;
// Fixed 24 bytes, big-endian, block first, so that an ordered store keeps the layers of a block together.
std::string EncodeKey(const BlockKey& key);
// False iff the bytes are not 24.
bool DecodeKey(absl::string_view bytes, BlockKey* key);
std::string KeyText(const BlockKey& key);  // for logs

}  // namespace interlace
