// How large the automaton of a regular expression gets, before anyone builds it; a pure function.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace interlace {

struct PatternSize {
  int64_t atoms = 0;  // characters and classes, with what stands in a{2,5} counted five times; at most kMostAtoms + 1
  int groups = 0;     // inside each other, at most
};
inline constexpr int64_t kMostAtoms = 500;

// Of a pattern that may be broken: whoever compiles it says so.
PatternSize SizeOfPattern(absl::string_view pattern);

}  // namespace interlace
