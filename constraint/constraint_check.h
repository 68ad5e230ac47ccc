// What a constraint may be before anybody compiles it; a pure function.
#pragma once

#include "absl/status/status.h"
#include "proto/plan/sampling.h"

namespace interlace {

inline constexpr size_t kLongestConstraint = 128 << 10;  // bytes

// InvalidArgument says why not. Afterwards compiling takes bounded time and memory.
absl::Status CheckConstraint(const Constraint& constraint);

}  // namespace interlace
