#include "transport/wire_frame.h"

#include <xxhash.h>

namespace interlace {
namespace {

// The fabric's address goes to a library that does not expect damage.
uint64_t Checksum(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

void AppendWord(uint64_t word, std::string* bytes) { bytes->append(reinterpret_cast<const char*>(&word), sizeof word); }

uint64_t TakeWord(absl::string_view* bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes->data(), sizeof word);
  bytes->remove_prefix(sizeof word);
  return word;
}

}  // namespace

// token, length of the nonce, nonce, fabric, checksum of all before it.
std::string Hello::Encode() const {
  std::string bytes;
  AppendWord(token, &bytes);
  AppendWord(nonce.size(), &bytes);
  bytes += nonce;
  bytes += fabric;
  AppendWord(Checksum(bytes), &bytes);
  return bytes;
}

absl::StatusOr<Hello> Hello::Decode(absl::string_view bytes) {
  const absl::Status damaged = absl::InvalidArgumentError("the hello is damaged");
  if (bytes.size() < 3 * sizeof(uint64_t)) return damaged;
  absl::string_view tail = bytes.substr(bytes.size() - sizeof(uint64_t));
  bytes.remove_suffix(sizeof(uint64_t));
  if (TakeWord(&tail) != Checksum(bytes)) return damaged;
  Hello hello;
  hello.token = TakeWord(&bytes);
  const uint64_t nonce_bytes = TakeWord(&bytes);
  if (nonce_bytes > bytes.size()) return damaged;
  hello.nonce = std::string(bytes.substr(0, nonce_bytes));
  hello.fabric = std::string(bytes.substr(nonce_bytes));
  return hello;
}

}  // namespace interlace
