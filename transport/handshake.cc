#include "transport/handshake.h"

#include <sodium.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr absl::string_view kDialler = "interlace.link.1 dialler";
constexpr absl::string_view kListener = "interlace.link.1 listener";
constexpr absl::string_view kForth = "interlace.link.1 from dialler to listener";
constexpr absl::string_view kBack = "interlace.link.1 from listener to dialler";

static_assert(Handshake::kProofBytes == crypto_generichash_BYTES &&
              std::tuple_size_v<LinkKey> == Handshake::kProofBytes);

LinkKey Hash(const unsigned char* key, size_t key_bytes, absl::string_view text) {
  LinkKey hash;
  CHECK(crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                           key, key_bytes) == 0);
  return hash;
}

void AppendWord(uint64_t word, std::string* bytes) { bytes->append(reinterpret_cast<const char*>(&word), sizeof word); }

uint64_t TakeWord(absl::string_view* bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes->data(), sizeof word);
  bytes->remove_prefix(sizeof word);
  return word;
}

}  // namespace

LinkKey KeyOfListener(absl::string_view secret, absl::string_view nonce) {
  std::string text = "interlace.link.1 key";
  AppendWord(secret.size(), &text);
  absl::StrAppend(&text, secret, nonce);
  const LinkKey key = Hash(nullptr, 0, text);
  sodium_memzero(text.data(), text.size());
  return key;
}

// Of a greeting or welcome: random, token, bulk; behind it, of a welcome, fabric and proof.
struct Handshake::Hello {
  static constexpr size_t kBytes = kRandomBytes + 2 * sizeof(uint64_t);
  uint64_t token = 0;
  bool bulk = false;

  static absl::StatusOr<Hello> Take(absl::string_view* bytes) {
    if (bytes->size() < kBytes) return absl::InvalidArgumentError("a hello that is not whole");
    bytes->remove_prefix(kRandomBytes);
    Hello hello;
    hello.token = TakeWord(bytes);
    const uint64_t bulk = TakeWord(bytes);
    if (bulk > 1) return absl::InvalidArgumentError("a hello that asks for what is not known");
    hello.bulk = bulk == 1;
    return hello;
  }
};

std::string Handshake::EncodeSelf() const {
  std::string bytes;
  for (const uint64_t word : self_.random) AppendWord(word, &bytes);
  AppendWord(self_.token, &bytes);
  AppendWord(self_.bulk ? 1 : 0, &bytes);
  return bytes;
}

void Handshake::TakeHello(const Hello& hello) {
  session_.peer_token = hello.token;
  session_.bulk = self_.bulk || hello.bulk;
}

void Handshake::Say(absl::string_view part) {
  AppendWord(part.size(), &said_);
  absl::StrAppend(&said_, part);
}

// `last`: what is said with the proof, without it.
std::string Handshake::Prove(absl::string_view who, absl::string_view last) const {
  std::string text = absl::StrCat(who, said_);
  AppendWord(last.size(), &text);
  absl::StrAppend(&text, last);
  const LinkKey proof = Hash(key_.data(), key_.size(), text);
  return std::string(reinterpret_cast<const char*>(proof.data()), proof.size());
}

absl::Status Handshake::Check(absl::string_view who, absl::string_view last, absl::string_view proof) const {
  const std::string right = Prove(who, last);
  if (proof.size() == right.size() && sodium_memcmp(proof.data(), right.data(), right.size()) == 0) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      "it does not know this cluster's secret (cluster.secret_file), or another process has its port now");
}

void Handshake::DeriveKeys(bool dialled) {
  session_.send = Hash(key_.data(), key_.size(), absl::StrCat(dialled ? kForth : kBack, said_));
  session_.receive = Hash(key_.data(), key_.size(), absl::StrCat(dialled ? kBack : kForth, said_));
}

std::string Handshake::Greet() {
  const std::string greeting = EncodeSelf();
  Say(greeting);
  return greeting;
}

absl::StatusOr<std::string> Handshake::TakeGreeting(absl::string_view greeting) {
  absl::string_view rest = greeting;
  ASSIGN_OR_RETURN(const Hello hello, Hello::Take(&rest));
  if (!rest.empty()) return absl::InvalidArgumentError("a greeting with something behind it");
  TakeHello(hello);
  Say(greeting);
  std::string welcome = EncodeSelf() + self_.fabric;
  welcome += Prove(kListener, welcome);
  Say(welcome);
  return welcome;
}

absl::StatusOr<std::string> Handshake::TakeWelcome(absl::string_view welcome) {
  absl::string_view rest = welcome;
  ASSIGN_OR_RETURN(const Hello hello, Hello::Take(&rest));
  if (rest.size() < kProofBytes) return absl::InvalidArgumentError("a welcome without a proof");
  RETURN_IF_ERROR(
      Check(kListener, welcome.substr(0, welcome.size() - kProofBytes), rest.substr(rest.size() - kProofBytes)));
  rest.remove_suffix(kProofBytes);
  TakeHello(hello);
  session_.peer_fabric = std::string(rest);
  Say(welcome);
  std::string confirm = self_.fabric;
  confirm += Prove(kDialler, confirm);
  Say(confirm);
  DeriveKeys(true);
  return confirm;
}

absl::Status Handshake::TakeConfirm(absl::string_view confirm) {
  if (confirm.size() < kProofBytes) return absl::InvalidArgumentError("a confirm without a proof");
  const absl::string_view fabric = confirm.substr(0, confirm.size() - kProofBytes);
  RETURN_IF_ERROR(Check(kDialler, fabric, confirm.substr(fabric.size())));
  session_.peer_fabric = std::string(fabric);
  Say(confirm);
  DeriveKeys(false);
  return absl::OkStatus();
}

}  // namespace interlace
