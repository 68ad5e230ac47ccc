#include "kvstore/block_key.h"

#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "kvstore/byte_order.h"

namespace interlace {
namespace {

template <typename T>
void AppendLittle(T value, std::string* to) {
  char bytes[sizeof(T)];
  StoreLittle(value, bytes);
  to->append(bytes, sizeof bytes);
}

// Length first, so that two fields never run into each other.
void AppendText(absl::string_view text, std::string* to) {
  AppendLittle(static_cast<uint64_t>(text.size()), to);
  absl::StrAppend(to, text);
}

BlockHash HashOf(const std::string& bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return BlockHash{hash.high64, hash.low64};
}

}  // namespace

BlockHash RootHash(const ChainSeed& seed) {
  std::string bytes = "interlace.chain.1";
  AppendText(seed.model_digest, &bytes);
  AppendLittle(seed.block_tokens, &bytes);
  AppendLittle(seed.kv_heads, &bytes);
  AppendLittle(seed.head_dim, &bytes);
  AppendText(seed.dtype, &bytes);
  AppendText(seed.salt, &bytes);
  return HashOf(bytes);
}

BlockHash ChainHash(const BlockHash& parent, absl::Span<const int32_t> tokens) {
  std::string bytes;
  bytes.reserve(16 + 4 * tokens.size());
  AppendLittle(parent.high, &bytes);
  AppendLittle(parent.low, &bytes);
  for (int32_t token : tokens) AppendLittle(token, &bytes);
  return HashOf(bytes);
}

std::string EncodeKey(const BlockKey& key) {
  std::string bytes(kEncodedKeyBytes, '\0');
  StoreBig(Value(key.generation), &bytes[0]);
  StoreBig(Value(key.layer), &bytes[8]);
  StoreBig(key.hash.high, &bytes[12]);
  StoreBig(key.hash.low, &bytes[20]);
  return bytes;
}

bool DecodeKey(absl::string_view bytes, BlockKey* key) {
  if (bytes.size() != kEncodedKeyBytes) return false;
  key->generation = Generation{LoadBig<uint64_t>(bytes.data())};
  key->layer = LayerId{LoadBig<int32_t>(bytes.data() + 8)};
  key->hash = BlockHash{LoadBig<uint64_t>(bytes.data() + 12), LoadBig<uint64_t>(bytes.data() + 20)};
  return true;
}

std::string KeyText(const BlockKey& key) {
  return absl::StrCat("generation ", Value(key.generation), " layer ", Value(key.layer), " block ",
                      absl::Hex(key.hash.high, absl::kZeroPad16), absl::Hex(key.hash.low, absl::kZeroPad16));
}

}  // namespace interlace
