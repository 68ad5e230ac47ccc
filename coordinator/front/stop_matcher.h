// StopMatcher: finds stop strings in a text that comes in pieces.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// The text ends at the first place where some stop string is complete, and is shown up to where that one begins (the
// longest, if several end there). The result does not depend on where the pieces are cut. No stop string ends in a text
// that is pushed as exempt; one may begin there.
// Owned by a TextStream; thread: one at a time. The trap: stop strings are not empty.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  // Appends to `out` what no later piece can turn into a stop string. True iff one is complete: nothing follows it.
  bool Push(absl::string_view piece, std::string* out, bool exempt = false);
  // Appends what was held back: no more pieces come.
  void Flush(std::string* out);

 private:
  size_t HeldFrom() const;

  const std::vector<std::string> stops_;
  size_t longest_ = 0;  // bytes
  std::string held_;
  size_t exempt_ = 0;  // bytes of held_
};

}  // namespace interlace
