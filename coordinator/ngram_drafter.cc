#include "coordinator/ngram_drafter.h"

#include <algorithm>

namespace interlace {

NgramDrafter::Run NgramDrafter::RunBefore(absl::Span<const int32_t> tokens, size_t end, size_t length) {
  return {length == 3 ? tokens[end - 3] : -1, tokens[end - 2], tokens[end - 1]};
}

std::vector<int32_t> NgramDrafter::Draft(absl::Span<const int32_t> tokens, int32_t most) {
  const size_t size = tokens.size();
  for (size_t end = learned_ + 1; end < size; ++end) {  // the last tokens themselves are no earlier occurrence
    for (size_t length = 2; length <= 3 && length <= end; ++length) ends_[RunBefore(tokens, end, length)] = end;
  }
  learned_ = std::max(learned_, size - std::min<size_t>(size, 1));
  for (size_t length : {size_t{3}, size_t{2}}) {
    if (size < length) continue;
    const Run run = RunBefore(tokens, size, length);
    if (const auto found = ends_.find(run); found != ends_.end()) return Behind(tokens, found->second, most);
    const auto expected = expected_ends_.find(run);
    if (expected == expected_ends_.end()) continue;
    const auto text = absl::MakeConstSpan(expected_).subspan(expected->second, static_cast<size_t>(most));
    return {text.begin(), text.end()};
  }
  return {};
}

std::vector<int32_t> NgramDrafter::Behind(absl::Span<const int32_t> tokens, size_t at, int32_t most) {
  std::vector<int32_t> draft;
  for (; draft.size() < static_cast<size_t>(most); ++at) {
    draft.push_back(at < tokens.size() ? tokens[at] : draft[at - tokens.size()]);
  }
  return draft;
}

void NgramDrafter::Expect(absl::Span<const int32_t> text) {
  expected_.assign(text.begin(), text.end());
  for (size_t end = 2; end < text.size(); ++end) {
    for (size_t length = 2; length <= 3 && length <= end; ++length) {
      expected_ends_[RunBefore(text, end, length)] = end;
    }
  }
}

}  // namespace interlace
