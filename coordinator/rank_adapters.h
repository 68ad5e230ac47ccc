// RankAdapters: what the front doors see of the ranks where adapters come and go.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/plan/adapter_list.h"

namespace interlace {

// Implemented by ClusterService, by a scripted fake in tests. Any thread, one call at a time.
class RankAdapters {
 public:
  virtual ~RankAdapters() = default;
  // All ranks of all replicas are to have these adapters beside those of their start, and no others; ranks that come
  // later get them before they serve. Returns when each rank that is here has them: OK; or what the first one that
  // cannot said, with its name: the caller then gives another list, which takes it back. Unavailable: no rank is here,
  // or this coordinator does not lead. DeadlineExceeded: one has not answered within `patience`.
  virtual absl::Status SetAdapters(std::vector<RankAdapter> adapters, absl::Duration patience) = 0;
};

}  // namespace interlace
