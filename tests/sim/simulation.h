// Simulation: one replica under virtual time, and what must hold of it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/scenario.h"
#include "tests/sim/sim_cluster.h"
#include "tests/sim/sim_rank.h"
#include "tests/sim/sim_tiers.h"
#include "tests/sim/world.h"

namespace interlace::sim {

struct Outcome {
  std::vector<std::string> failures;  // empty: every property held
  uint64_t digest = 0;                // of all that happened
  int64_t events = 0;
  absl::Duration time;  // virtual, until all was quiet
  Ledger ledger;
  int32_t requests = 0, ok = 0, refused = 0;  // of requests: those that ended OK, those that never entered
  int64_t needed_tokens = 0;                  // positions of the requests that ended OK, each computed once
  std::vector<int64_t> codes;                 // [status code] requests
  absl::Duration last_end;                    // when the last request ended, since the first arrival
  int64_t parks = 0, stale = 0;
};

// Runs the scenario until everything is quiet. The same arguments give the same outcome.
Outcome Simulate(const Scenario& scenario, Canary canary = Canary::kNone, bool verbose = false);

}  // namespace interlace::sim
