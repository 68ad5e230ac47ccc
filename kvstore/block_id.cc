#include "kvstore/block_id.h"

#include <sodium.h>

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
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

const unsigned char* Unsigned(const std::string& bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

}  // namespace

std::string IdText(const BlockId& id) {
  return absl::StrCat(absl::Hex(id.high, absl::kZeroPad16), absl::Hex(id.low, absl::kZeroPad16));
}

BlockChain::BlockChain(const ChainSeed& seed) {
  std::string bytes = "interlace.chain.4";
  for (absl::string_view text :
       {absl::string_view(seed.model_digest), absl::string_view(seed.numerics), absl::string_view(seed.dtype),
        absl::string_view(seed.adapter), absl::string_view(seed.salt), absl::string_view(seed.secret)}) {
    AppendText(text, &bytes);
  }
  for (int32_t number : {seed.block_tokens, seed.kv_heads, seed.head_dim}) AppendLittle(number, &bytes);
  CHECK(crypto_generichash(key_.data(), key_.size(), Unsigned(bytes), bytes.size(), nullptr, 0) == 0);
}

BlockId BlockChain::Next(const BlockId& parent, absl::Span<const int32_t> tokens) const {
  // A block of 16 tokens is one round of BLAKE2b, which takes 128 bytes; its own keyed mode would need two.
  absl::InlinedVector<unsigned char, 512> bytes(key_.size() + sizeof parent + 4 * tokens.size());
  char* to = reinterpret_cast<char*>(std::copy(key_.begin(), key_.end(), bytes.data()));
  StoreLittle(parent.high, to);
  StoreLittle(parent.low, to + 8);
  to += sizeof parent;
  for (int32_t token : tokens) {
    StoreLittle(token, to);
    to += sizeof token;
  }
  char digest[16];
  CHECK(crypto_generichash(reinterpret_cast<unsigned char*>(digest), sizeof digest, bytes.data(), bytes.size(), nullptr,
                           0) == 0);
  return BlockId{LoadLittle<uint64_t>(digest), LoadLittle<uint64_t>(digest + 8)};
}

std::string EncodeKey(const BlockKey& key) {
  std::string bytes(kEncodedKeyBytes, '\0');
  StoreBig(key.block.high, &bytes[0]);
  StoreBig(key.block.low, &bytes[8]);
  StoreBig(Value(key.layer), &bytes[16]);
  StoreBig(key.heads.begin, &bytes[20]);
  StoreBig(key.heads.end, &bytes[22]);
  return bytes;
}

bool DecodeKey(absl::string_view bytes, BlockKey* key) {
  if (bytes.size() != kEncodedKeyBytes) return false;
  key->block = BlockId{LoadBig<uint64_t>(bytes.data()), LoadBig<uint64_t>(bytes.data() + 8)};
  key->layer = LayerId{LoadBig<int32_t>(bytes.data() + 16)};
  key->heads = HeadRange{LoadBig<int16_t>(bytes.data() + 20), LoadBig<int16_t>(bytes.data() + 22)};
  return true;
}

std::string KeyText(const BlockKey& key) {
  return absl::StrCat("block ", IdText(key.block), " layer ", Value(key.layer), " heads ", key.heads.begin, "-",
                      key.heads.end - 1);
}

}  // namespace interlace
