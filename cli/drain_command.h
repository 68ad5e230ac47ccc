// interlace drain: a cluster, or one replica of it, takes no new requests, and is waited for until those that run have
// ended or gone on elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace interlace {

struct DrainOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;                    // an operator's; empty: none
  std::optional<absl::Duration> timeout;  // what runs longer is cut; none: it is waited for
  std::optional<int32_t> replica;         // of several; none: the server
  bool resume = false;                    // takes new requests again, instead
  bool wait = true;                       // until nothing is left
};

// The exit status: 0 if nothing is left and this drain cut nothing, else 1. A signal ends the wait; the drain goes on.
// Not OK: nobody answers, the key is no operator's, or somebody else resumed.
absl::StatusOr<int> DrainCommand(const DrainOptions& options);

}  // namespace interlace
