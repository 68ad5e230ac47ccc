// What is to be said of a machine for a configuration; pure.
#pragma once

#include <vector>

#include "cli/findings.h"
#include "cli/machine_facts.h"
#include "common/config.h"

namespace interlace {

// One for each check, in a fixed order; what was not measured has none.
std::vector<Finding> JudgeMachine(const MachineFacts& facts, const Config& config);

}  // namespace interlace
