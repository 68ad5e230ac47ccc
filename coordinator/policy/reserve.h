// How many blocks stay free for those who run when another request starts. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "coordinator/policy/step_view.h"

namespace interlace {

// Whole blocks, by the view's rule, N of those who run, P tokens of a block:
//   kNone      0
//   kShare     ceil(o N / P), and no more than an eighth of the device
//   kCap       0 while the device holds more than `a` blocks for each of them, else all of it
//   kQuantile  what all but one of 20 futures of the next P tokens need, by the lengths of the answers of late
// An empty device reserves nothing, so that whoever fits alone starts.
int64_t ReservedBlocks(const StepView& view);

// "none", "share:1.2", "cap:3.4", "quantile". InvalidArgument names the text and the known rules.
absl::Status ParseReserve(absl::string_view text, PolicyOptions* options);

}  // namespace interlace
