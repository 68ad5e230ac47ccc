// What a JSON text from a client is checked for before and after it is parsed; pure functions.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Whether arrays and objects stand inside each other more than `levels` deep: [[1]] is 2 deep. Brackets within strings
// do not count. Of text that is not JSON it tells what a parser would have opened before the first fault, at least.
bool NestsDeeper(absl::string_view json, int levels);

// InvalidArgument that says where and why `json` is not JSON, and which top-level field holds the fault. Requires: text
// that nlohmann's parser refused.
absl::Status FaultOf(absl::string_view json);

}  // namespace interlace
