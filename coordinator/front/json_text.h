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

// The value of the member `name` of the object, as it is written there: what a DOM loses, the order of members, is
// kept. The last of several; empty if there is none. Requires: a JSON object.
absl::string_view RawMember(absl::string_view object, absl::string_view name);

}  // namespace interlace
