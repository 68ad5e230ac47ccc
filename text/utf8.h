// Utf8Front: what the first bytes of a text are in UTF-8.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace interlace {

struct Utf8Front {
  enum Kind {
    kComplete,    // a code point of `bytes` bytes
    kBroken,      // `bytes` bytes that no continuation can make a code point
    kUnfinished,  // the text ends inside a code point
  };
  Kind kind;
  size_t bytes;  // at least 1
};

// Well-formed as in table 3-7 of the Unicode Standard: no overlong form, no surrogate, nothing past U+10FFFF. A broken
// part is as long as the standard's advice for U+FFFD replacement says. Requires: a text that is not empty.
Utf8Front Utf8FrontOf(absl::string_view text);

}  // namespace interlace
