// TextPattern: a regular expression over UTF-8, as the files of tokenizers write them.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Immutable; any thread. Owned by a Pretokenizer or Normalizer. The trap: white space, \s, is Unicode's White_Space,
// which is not quite what it is to the regex library, so patterns are rewritten before they are compiled.
class TextPattern {
 public:
  // Room for one search at a time; made once per text.
  class Search;
  struct Found {
    bool any;
    size_t begin, end;  // bytes
  };

  // InvalidArgument if it is no pattern; Unimplemented if it is one whose search could take time out of proportion to
  // the text (back references, recursion, a repeated group that repeats) or means another thing to other libraries.
  static absl::StatusOr<TextPattern> Compile(absl::string_view pattern);
  TextPattern(TextPattern&&) noexcept;
  TextPattern& operator=(TextPattern&&) noexcept;
  ~TextPattern();

  // The first match in `text` at `from` or later. `text` is UTF-8. Gives up, as if there were none, after a number of
  // steps that no pattern of a real tokenizer comes near.
  Found Find(absl::string_view text, size_t from, Search& search) const;

 private:
  struct Code;
  explicit TextPattern(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

class TextPattern::Search {
 public:
  Search();
  ~Search();

 private:
  friend class TextPattern;
  struct Room;
  std::unique_ptr<Room> room_;
};

}  // namespace interlace
