// ByteAlphabet: the characters in which vocabularies of byte-level BPE are written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

// GPT-2 shows each byte as a printable character: 33-126, 161-172 and 174-255 stand for themselves, the others take
// the characters from 256 on. Made where a tokenizer is loaded.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    bytes_.fill(-1);
    size_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      bytes_[printable ? byte : next++] = byte;
    }
  }

  // False iff a character of `text` is not in the alphabet. All that are take one or two bytes of UTF-8.
  bool Read(absl::string_view text, std::string* bytes) const {
    bytes->clear();
    for (size_t i = 0; i < text.size(); ++i) {
      uint32_t character = static_cast<unsigned char>(text[i]);
      if (character >= 0x80) {
        if ((character & 0xe0) != 0xc0 || i + 1 >= text.size()) return false;
        character = (character & 0x1f) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f);
      }
      if (character >= bytes_.size() || bytes_[character] < 0) return false;
      bytes->push_back(static_cast<char>(bytes_[character]));
    }
    return true;
  }

 private:
  std::array<int, 256 + 68> bytes_;  // by character; -1: not in the alphabet
};

}  // namespace interlace
