// TextPattern: a regular expression over UTF-8, as the files of tokenizers write them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Immutable; any thread. Owned by a Pretokenizer or Normalizer. The trap: white space, \s, is Unicode's White_Space,
// which is not quite what it is to the regex library, so patterns are rewritten before they are compiled.
class TextPattern {
 public:
  // Far more than a pattern without repeated repetitions takes in a text of megabytes.
  static constexpr uint32_t kMostSteps = 2'000'000'000;

  // Room for one search at a time; made once per text.
  class Search;
  struct Found {
    bool any;
    size_t begin, end;  // bytes
  };

  // InvalidArgument if it is no pattern; Unimplemented if it is one whose search could take time out of proportion to
  // the text (back references, recursion, a repeated group that repeats) or means another thing to other libraries.
  static absl::StatusOr<TextPattern> Compile(absl::string_view pattern, uint32_t steps = kMostSteps);
  TextPattern(TextPattern&&) noexcept;
  TextPattern& operator=(TextPattern&&) noexcept;
  ~TextPattern();

  // The first match in `text` at `from` or later. `text` is UTF-8. A search that takes more than `steps` steps, which no
  // pattern of a real tokenizer comes near, gives up: the rest of the text counts as one without a match, and a line in
  // the log says that it is not cut as the pattern asks.
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
