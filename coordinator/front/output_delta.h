// What a piece of a model's output is to a client of a chat: thought, text and calls of tools.
#pragma once

#include <string>
#include <vector>

namespace interlace {

// The deltas of one call have one index; its name comes with the first.
struct CallDelta {
  size_t index = 0;
  std::string name;       // not empty: the call begins
  std::string arguments;  // more of their JSON
  // Not empty: the call ends here without being whole, and this is all of it as the model wrote it. A stream has shown
  // what there was of it; who gathers an answer shows this as text instead.
  std::string undone;
  friend bool operator==(const CallDelta&, const CallDelta&) = default;
};

struct OutputDelta {
  std::string thought;
  std::string text;
  std::vector<CallDelta> calls;
  bool empty() const { return thought.empty() && text.empty() && calls.empty(); }
};

}  // namespace interlace
