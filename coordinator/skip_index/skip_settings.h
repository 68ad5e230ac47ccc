// What the settings of the group `skip` make.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/config.h"
#include "common/entropy.h"
#include "coordinator/skip_index/skip_advisor.h"

namespace interlace {

// Null where nobody would ask it: skip.index is off, or no rank makes guesses of its own (sched.speculate).
std::unique_ptr<SkipAdvisor> MakeSkipAdvisor(const Config& config, const std::string& model_digest, int32_t layers,
                                             std::unique_ptr<Entropy> entropy);

// skip.file, or its default beside coordinator.state; empty: it is kept nowhere.
std::string SkipFilePath(const Config& config);

}  // namespace interlace
