#include "transport/frame_mac.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>

#include "common/check.h"

namespace interlace {
namespace {

constexpr size_t kNonceBytes = 12;
constexpr size_t kMostAtOnce = size_t{1} << 30;  // OpenSSL counts in int

void Take(EVP_CIPHER_CTX* context, absl::string_view bytes) {
  for (int took = 0; !bytes.empty();) {
    const size_t some = std::min(bytes.size(), kMostAtOnce);
    CHECK(EVP_EncryptUpdate(context, nullptr, &took, reinterpret_cast<const unsigned char*>(bytes.data()),
                            static_cast<int>(some)) == 1);
    bytes.remove_prefix(some);
  }
}

}  // namespace

void FrameMac::Freed::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

FrameMac::FrameMac(const LinkKey& key) : context_(EVP_CIPHER_CTX_new()) {
  static_assert(std::tuple_size_v<LinkKey> == 32);
  CHECK(context_ != nullptr &&
        EVP_EncryptInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr) == 1);
}
FrameMac::~FrameMac() = default;

FrameTag FrameMac::TagOf(Frame frame, absl::string_view header, absl::string_view body) {
  frame.tag = FrameTag{};
  unsigned char nonce[kNonceBytes];
  std::memcpy(nonce, &frame.kind, sizeof frame.kind);
  std::memcpy(nonce + 2, &frame.channel, sizeof frame.channel);
  std::memcpy(nonce + 4, &frame.sequence, sizeof frame.sequence);
  EVP_CIPHER_CTX* const context = context_.get();
  CHECK(EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce) == 1);
  Take(context, {reinterpret_cast<const char*>(&frame), sizeof frame});
  Take(context, header);
  Take(context, body);
  FrameTag tag;
  int none = 0;
  unsigned char nothing[EVP_MAX_BLOCK_LENGTH];
  CHECK(EVP_EncryptFinal_ex(context, nothing, &none) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()), tag.data()) == 1);
  return tag;
}

bool FrameMac::Holds(const Frame& frame, absl::string_view header, absl::string_view body) {
  const FrameTag right = TagOf(frame, header, body);
  return CRYPTO_memcmp(right.data(), frame.tag.data(), right.size()) == 0;
}

}  // namespace interlace
