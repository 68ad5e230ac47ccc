#include "coordinator/ngram_drafter.h"

#include <algorithm>

namespace interlace {

std::vector<int32_t> DraftFromContext(absl::Span<const int32_t> tokens, int32_t most) {
  for (size_t length : {size_t{3}, size_t{2}}) {
    if (tokens.size() <= length) continue;
    const absl::Span<const int32_t> last = tokens.last(length);
    for (size_t at = tokens.size() - length; at-- > 0;) {
      if (!std::equal(last.begin(), last.end(), tokens.begin() + at)) continue;
      const absl::Span<const int32_t> after = tokens.subspan(at + length, most);
      return {after.begin(), after.end()};
    }
  }
  return {};
}

}  // namespace interlace
