// When requests that wait would have their first tokens, if all goes well from now on. Pure functions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "coordinator/policy/step_view.h"

namespace interlace {

// Prompts that are computed before a first token comes: those that come earlier in the order, and its own.
struct PromptsAhead {
  StepWork work;
  int32_t longest = 0;  // rows of the longest; the chunks of one prompt are computed one after another

  // Positions [from, to) of one prompt.
  PromptsAhead& Add(int32_t from, int32_t to) {
    work.Add(from, to - from);
    longest = std::max(longest, to - from);
    return *this;
  }
};

// What steps hold from now on.
struct StepRoom {
  absl::Duration under_way;  // until the steps are over that are planned already
  StepWork beside;           // the streams that decode: each step holds a token of each
  int32_t prompt_rows = 0;   // of all prompts
  int32_t chunk_tokens = 0;  // of one prompt
};

// How long until these prompts are computed. Optimistic: every step is full, rows and products are spread evenly over
// the steps, and nobody waits for room.
//   steps = max(ceil(rows / prompt_rows), ceil(longest / chunk)),  time = under way + steps x T(beside + work / steps)
absl::Duration TimeOfPrompts(const CostModel& cost, const StepRoom& room, const PromptsAhead& prompts);

// What a request will miss even so.
enum class Miss : uint8_t { kNone, kTtft, kDeadline };
absl::string_view MissName(Miss miss);  // "predicted_ttft_miss"

struct Forecast {
  Miss miss = Miss::kNone;
  absl::Duration needs;   // until the first token, or until the end, from now on
  absl::Duration left;    // until the target, from now on
  absl::Duration target;  // from its arrival on
  bool hopeless = false;  // with the replica to itself from its arrival on, it would have missed it too
};
// Of a request that waits and has had no token. `found`: positions of its prompt whose KV is there. `prompts`: those
// before it and its own. Its answer is as short as nine in ten answers of late are not. A miss is only called one if
// the cost model has seen enough.
Forecast Predict(const StepView& view, const StepRoom& room, const PromptsAhead& prompts, const SequenceView& sequence,
                 int32_t found);

}  // namespace interlace
