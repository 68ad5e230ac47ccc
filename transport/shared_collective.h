// Collective over memory that the ranks of a group share: they are processes of one machine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "transport/collective.h"

namespace interlace {

struct SharedCollectiveOptions {
  int32_t rank = 0;
  int32_t ranks = 1;
  int64_t max_bytes = 0;                         // of a part
  absl::Duration spin = absl::Microseconds(50);  // looked for the others before the thread sleeps
};

// Each rank writes its own memory and reads the others', so an exchange moves nothing that is not asked for: what is
// given was computed there, and is read from there. Parts lie in two places by turns: a rank writes a place again only
// when all others have come to the exchange after, and so have read it. Memory is new in every epoch: what a rank of an
// older one still reads never changes under it.
// Connect fails with FailedPrecondition where an address is of another machine, process namespace or user.
// `clock` outlives what is made. ResourceExhausted: twice `max_bytes` is more shared memory than the machine has.
absl::StatusOr<std::unique_ptr<Collective>> MakeSharedCollective(const SharedCollectiveOptions& options,
                                                                 Entropy& entropy, Clock& clock);

}  // namespace interlace
