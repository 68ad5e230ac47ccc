// Keys and payloads for tests of kvstore/.
#pragma once

#include <cstddef>
#include <vector>

#include "common/entropy.h"
#include "kvstore/block_key.h"

namespace interlace {

inline BlockKey Key(uint64_t generation, int32_t layer, uint64_t block) {
  return BlockKey{{0x1234, block}, Generation{generation}, LayerId{layer}};
}

// Bytes that name their key, so that no two blocks look alike.
inline std::vector<std::byte> Payload(const BlockKey& key, size_t bytes) {
  auto entropy = MakeSeededEntropy(Value(key.generation) * 1000003 + key.hash.low)->Fork(EncodeKey(key));
  std::vector<std::byte> payload(bytes);
  for (std::byte& b : payload) b = static_cast<std::byte>(entropy->Next());
  return payload;
}

}  // namespace interlace
