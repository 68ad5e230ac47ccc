// Drafts from a sequence's own words: what followed its last tokens when they stood there before.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace interlace {

// At most `most` tokens that followed the latest earlier occurrence of the last 3 tokens, or of the last 2; empty if
// there is none. Pure; O(tokens). Source: prompt lookup decoding (n-gram speculation).
std::vector<int32_t> DraftFromContext(absl::Span<const int32_t> tokens, int32_t most);

}  // namespace interlace
