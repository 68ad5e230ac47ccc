// Drafts from a sequence's own words: what followed its last tokens when they stood there before.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace interlace {

// Remembers where each run of 2 and of 3 tokens of one sequence ended last, so that a draft costs what the sequence
// grew by, however long it is. Owned by the sequence's state; thread: the replica's. Source: prompt lookup decoding.
class NgramDrafter {
 public:
  // `most` tokens that followed the latest earlier occurrence of the last 3 tokens, else of the last 2; empty if there
  // is none. Where the occurrence is so late that the sequence ends before `most` tokens, the draft goes on with
  // itself: "a b a b" is followed by "a b a b ..". Requires: `tokens` begins with those of the call before.
  std::vector<int32_t> Draft(absl::Span<const int32_t> tokens, int32_t most);
  // What the sequence may come to say: where its own words say nothing, a draft is what followed its last tokens there.
  // Once, before the first draft.
  void Expect(absl::Span<const int32_t> text);

 private:
  using Run = std::array<int32_t, 3>;  // of 2: the first is -1, which is no token
  static Run RunBefore(absl::Span<const int32_t> tokens, size_t end, size_t length);

  static std::vector<int32_t> Behind(absl::Span<const int32_t> tokens, size_t at, int32_t most);

  absl::flat_hash_map<Run, size_t> ends_;  // the position after its latest occurrence
  std::vector<int32_t> expected_;
  absl::flat_hash_map<Run, size_t> expected_ends_;  // likewise in expected_
  size_t learned_ = 0;                              // runs that end at or before it are in ends_
};

}  // namespace interlace
