// StopMatcher: finds stop strings in a text that comes in pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// The text ends at the first place where some stop string is complete, and is shown up to where that one begins (the
// longest, if several end there). The result does not depend on where the pieces are cut. No stop string ends in a text
// that is pushed as exempt; one may begin there. Each byte costs a few steps for each stop string, however long they
// are (Knuth, Morris and Pratt). Owned by a TextStream; thread: one at a time. Requires: no stop string is empty.
class StopMatcher {
 public:
  // `include`: what is shown ends behind the stop string.
  explicit StopMatcher(const std::vector<std::string>& stops, bool include = false);
  // Appends to `out` what no later piece can turn into a stop string. True iff one is complete: nothing follows it.
  bool Push(absl::string_view piece, std::string* out, bool exempt = false);
  // Appends what was held back: no more pieces come.
  void Flush(std::string* out);
  // The one that was complete; empty: none.
  const std::string& met() const { return met_; }

 private:
  struct Stop {
    explicit Stop(std::string text);
    void Take(char c);
    bool complete() const { return matched == text.size(); }

    const std::string text;
    std::vector<uint32_t>
        border;          // of the first i + 1 bytes: the longest beginning that is also their end, not all of them
    size_t matched = 0;  // the longest beginning of `text` that the pushed text ends with
  };

  std::vector<Stop> stops_;
  const bool include_;
  std::string met_;
  std::string held_;
};

}  // namespace interlace
