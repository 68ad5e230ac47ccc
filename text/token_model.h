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
};

}  // namespace interlace
