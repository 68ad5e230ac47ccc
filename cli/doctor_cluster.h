// What is to be said of a running cluster; pure.
#pragma once

#include <string>
#include <vector>

#include "cli/cluster_look.h"
#include "cli/findings.h"

namespace interlace {

// `version`: of this tool. One for each check, in a fixed order; what the doors do not tell has none.
std::vector<Finding> JudgeCluster(const ClusterLook& look, const std::string& version);

}  // namespace interlace
