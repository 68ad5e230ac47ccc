// Targets: what a request asks of its pace and its place; and whether it got it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace interlace {

// Arrives with a request, by any door; what the client leaves unset is the server's default (settings slo.*). The
// deadline, which every request has, stands beside it in Request. All of them are soft: a request that misses one
// goes on.
struct Targets {
  std::optional<absl::Duration> ttft;         // arrival to first token
  std::optional<absl::Duration> tpot;         // mean gap between its tokens
  std::optional<absl::Duration> largest_gap;  // between two of its tokens
  int32_t priority = 0;                       // lower is earlier
  std::string tenant;                         // who shares fairly with whom; empty: all who name none are one tenant
  // Name of a class of requests that a router above us keeps. Nothing here knows such names: it is shown by explain and
  // has no effect.
  std::string objective;

  bool operator==(const Targets&) const = default;
};

// Of a request that has ended; unset: it had no such target, or its client left before it was met or missed.
struct TargetsMet {
  std::optional<bool> ttft, tpot, largest_gap, deadline;

  bool operator==(const TargetsMet&) const = default;
};

}  // namespace interlace
