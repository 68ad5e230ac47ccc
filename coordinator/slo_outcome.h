// Whether requests met their targets; pure functions.
#pragma once

#include "common/metrics.h"
#include "coordinator/request.h"

namespace interlace {

// `end` is the end of `request`, with everything but `met` filled in.
//
//   ended well        each target is met or missed; without a second token there is no gap to miss
//   ended with error  a target that was not reached is missed
//   Cancelled         what was reached counts; a target that was still open when the client left is neither
TargetsMet OutcomeOf(const Request& request, const RequestEnd& end);

// Whether it ended well and missed nothing.
bool IsGoodput(const RequestEnd& end);

// Adds one end to interlace_slo_*.
void CountOutcome(const RequestEnd& end, Metrics& metrics);

}  // namespace interlace
