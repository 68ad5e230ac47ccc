// What `interlace status` shows: one page of a cluster, as text and as JSON; pure functions.
#pragma once

#include <string>

#include "cli/cluster_look.h"
#include "cli/drain_progress.h"

namespace interlace {

// `drain`: how far a drain has got, if there is one and the server tells.
std::string StatusPage(const ClusterLook& look, const std::optional<DrainProgress>& drain);
// The same numbers, of which docs/operations.md tells.
std::string StatusJson(const ClusterLook& look, const std::optional<DrainProgress>& drain);

}  // namespace interlace
