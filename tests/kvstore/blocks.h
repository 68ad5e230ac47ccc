// Keys and payloads for tests of kvstore/.
#pragma once

#include <cstddef>
#include <vector>

#include "common/entropy.h"
#include "kvstore/block_id.h"

namespace interlace {

// The names that one chain gives are random; here a chain and a number make one.
inline BlockKey Key(uint64_t chain, int32_t layer, uint64_t block) {
  return BlockKey{{chain, block}, LayerId{layer}, HeadRange{0, 4}};
}

// Bytes that name their key, so that no two blocks look alike.
inline std::vector<std::byte> Payload(const BlockKey& key, size_t bytes) {
  auto entropy = MakeSeededEntropy(key.block.high * 1000003 + key.block.low)->Fork(EncodeKey(key));
  std::vector<std::byte> payload(bytes);
  for (std::byte& b : payload) b = static_cast<std::byte>(entropy->Next());
  return payload;
}

}  // namespace interlace
