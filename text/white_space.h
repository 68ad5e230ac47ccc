// White space as Unicode and as Python see it.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace interlace {

// Bytes of the White_Space character that `text` begins with; zero if it begins with another.
size_t WhiteSpaceAt(absl::string_view text);
// The same with what Python's str.isspace counts besides: U+001C to U+001F.
size_t PythonSpaceAt(absl::string_view text);

// `text` without the characters at its start, or end, of which `at` says that they are space.
absl::string_view TrimmedLeft(absl::string_view text, size_t (*at)(absl::string_view) = WhiteSpaceAt);
absl::string_view TrimmedRight(absl::string_view text, size_t (*at)(absl::string_view) = WhiteSpaceAt);

}  // namespace interlace
