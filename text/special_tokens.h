// SpecialTokens: tokens that are found as text before anything else, control tokens and those a model's maker defined.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Immutable once filled; any thread. Owned by the Tokenizer. The trap: a control token is found only where the caller
// says so, for text from users must not forge one.
class SpecialTokens {
 public:
  struct Token {
    int32_t id = -1;
    bool control = false;
    bool takes_space_before = false, takes_space_after = false;  // white space beside it belongs to it
    bool whole_word = false;                                     // not between letters, digits or underscores
  };
  struct Match {
    const Token* token = nullptr;  // null: none
    size_t begin = 0, end = 0;     // bytes of the text, white space that it takes included
  };

  // Of two with one text the first counts. Requires: a text that is not empty.
  void Add(absl::string_view text, const Token& token);
  bool empty() const { return by_text_.empty(); }
  const Token* Find(absl::string_view text) const;  // null if there is none
  // The leftmost match of `text` at `from` or later, the longest of those. Control tokens only if `control` and if none
  // of their bytes is marked in `data`, which is empty or as long as `text` and marks bytes that are not zero.
  Match Next(absl::string_view text, absl::string_view data, size_t from, bool control) const;

 private:
  struct Entry {
    Token token;
    size_t bytes;
  };
  absl::flat_hash_map<std::string, Entry> by_text_;
  std::array<std::vector<size_t>, 256> lengths_;  // by first byte: distinct, longest first
};

}  // namespace interlace
