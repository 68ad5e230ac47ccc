// Whether it pays that requests start before all their layers fit. Pure functions.
#pragma once

#include "coordinator/policy/step_view.h"

namespace interlace {

// What one request takes of the machine, on the average over those that run and those that wait, in seconds.
struct ServiceTimes {
  double own = 0;   // to compute its prompt, its tokens, and the KV that these read
  double idle = 0;  // its share of what steps cost whoever is in them, with as many requests beside it as fit whole
};
// Requires: somebody runs or waits, and the cost model knows something.
ServiceTimes ServiceOf(const StepView& view);

// Whether room for KV limits how many requests get through. With N requests that fit whole, each O tokens long, and a
// step that costs F before anybody is in it, whole starts let 1 / (own + O F / N) requests through, and starts without
// bound 1 / own: so early starts gain at most O F / N of own. Below a quarter they are not worth their transfers and
// the cache that they push out: arithmetic is the limit, and whoever starts early makes others late.
// True while the cost model knows nothing.
bool RoomIsTheLimit(const StepView& view);

}  // namespace interlace
