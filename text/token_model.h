// TokenModel: what turns one piece of text into tokens, the trained part of a tokenizer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// Immutable once filled; any thread. Owned by the Tokenizer. The trap: pieces come normalised and cut; a model sees
// neither special tokens nor the rest of the text.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the tokens of one piece.
  virtual void Encode(absl::string_view piece, std::vector<int32_t>* out) const = 0;
  // Whether such a byte is part of a token wherever it stands. False where that depends, or is not known.
  virtual bool Covers(unsigned char byte) const {
    static_cast<void>(byte);
    return false;
  }
};

}  // namespace interlace
