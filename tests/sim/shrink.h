// Shrinking: the smallest part of a scenario that still fails, and the command that replays it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tests/sim/scenario.h"

namespace interlace::sim {

// What a scenario is replayed with: INTERLACE_SIM_SEED and the parts of the cut, from the environment.
struct Replay {
  uint64_t seed = 0;
  Canary canary = Canary::kNone;
  Cut cut;
};
// Nullopt if no seed is asked for.
std::optional<Replay> ReplayFromEnvironment();
std::string CommandOf(const Replay& replay);

// Runs in a process of its own, so that a CHECK that fails there is a failure like any other. The text of the failure;
// empty: there is none.
std::string FailureOf(const std::function<std::string()>& run);

// Leaves out requests and faults and shortens prompts, as long as `fails` says that what is left still fails.
Replay Shrink(const Replay& replay, const std::function<bool(const Replay&)>& fails);

}  // namespace interlace::sim
