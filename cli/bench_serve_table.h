// What `interlace bench serve` prints.
#pragma once

#include <string>
#include <vector>

#include "bench/serve/load_capacity.h"
#include "bench/serve/load_record.h"

namespace interlace {

// One run in full, or several as rows. What makes a run doubtful stands below.
std::string LoadRunsText(const std::vector<LoadRun>& runs);

void PrintCapacityStep(const CapacityStep& step);
std::string CapacityText(const CapacityResult& capacity);

}  // namespace interlace
