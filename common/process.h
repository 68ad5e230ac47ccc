// What a process of the cluster does before anything else.
#pragma once

namespace interlace {

// Called first in main, before a thread or a lock is there. Debian's abseil looks for cycles at each lock that is
// taken, as abseil's own release builds do not; the graph of locks alone took 2 % of what the threads between door and
// rank compute (perf, 16 streams). Builds with NDEBUG turn it off; all others keep it, so that tests find locks taken
// in two orders.
void BeginProcess();

}  // namespace interlace
