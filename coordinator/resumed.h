// Resumed: what became of a request on a replica that cannot go on with it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/explanation.h"
#include "coordinator/request_trace.h"

namespace interlace {

// Goes with a request from the scheduler that hands it over to the one that takes it: there it is a prompt with an
// answer that has begun, as after a loss. The sampler needs nothing else: it is keyed by seed and index of the token,
// and penalties, masks and stop tokens follow from the tokens. A value.
struct Resumed {
  std::vector<int32_t> tokens;                    // of the answer; the client has them
  int32_t had = 0;                                // of these, so many when it came
  absl::Time started = absl::InfinitePast();      // first step; infinite past: it only waited
  absl::Time first_token = absl::InfinitePast();  // infinite past: it has none
  absl::Time last_token = absl::InfinitePast();
  absl::Duration largest_gap;                // between two of them
  int32_t scored_rows = 0;                   // of its prompt, from 0 on, whose scores the client has
  int32_t cached_tokens = -1;                // of its prompt, where it first started; -1: it did not
  absl::Time at;                             // when it was handed over
  uint32_t attempt = 0;                      // its last one: what is in flight of it is stale where it comes back
  int32_t computed = 0;                      // positions that were computed before
  absl::string_view cause = "replica lost";  // why they may be computed again; a literal
  int32_t sealed = 0;       // blocks, from the first on, that the replica had sealed: tiers have them soon
  int32_t losses = 0;       // of replicas that met it since it last got on
  FidelityReport fidelity;  // so far
  Explanation explanation;  // its decisions so far, and what its time went by
  RequestTrace trace;
};

}  // namespace interlace
