#include "text/byte_fallback.h"

#include <algorithm>

namespace interlace {

int ByteOfToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int byte = 0;
  for (char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    byte = byte * 16 + digit;
  }
  return byte;
}

bool ByteFallback::Append(absl::string_view text, bool after_unknown, std::vector<int32_t>* out) const {
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (std::all_of(text.begin(), text.end(), [&](char byte) { return id_of(byte) >= 0; })) {
    for (char byte : text) out->push_back(id_of(byte));
    return false;
  }
  if (unknown_ >= 0 && !(fuse_ && after_unknown)) out->push_back(unknown_);
  return true;
}

}  // namespace interlace
