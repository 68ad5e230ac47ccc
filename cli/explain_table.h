// The table that `interlace explain` prints.
#pragma once

#include <string>

#include "client/client.h"
#include "coordinator/explanation.h"

namespace interlace {

// A request, then one row a layer: where its KV was after the last step, bytes in and out over its life, stall.
std::string ExplainTable(const RequestReport& report);

// The same of a request that ran in this process.
RequestReport ToReport(const Explanation& explanation);

}  // namespace interlace
