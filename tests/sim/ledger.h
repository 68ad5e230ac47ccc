// Ledger: what went wrong in a simulation, and what was bound to go wrong.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/block_id.h"

namespace interlace::sim {

// Owned by the simulation; every part writes to it. Thread: one.
struct Ledger {
  std::vector<std::string> failures;  // properties that did not hold, the first one first
  std::set<BlockId> damaged;          // blocks whose loss on some rank has a cause that the scenario contains

  // What the seed reached.
  int64_t plans = 0, planned_tokens = 0, lost_tokens = 0, losses = 0, adopted_blocks = 0, fetched_blocks = 0,
          failed_fetches = 0, copies = 0, streamed_reads = 0, corrupt_frames = 0, stale_results = 0, formings = 0,
          crashes = 0, late_samples = 0;

  template <typename... Parts>
  void Fail(const Parts&... parts) {
    if (failures.size() < 20) failures.push_back(absl::StrCat(parts...));
  }
};

}  // namespace interlace::sim
