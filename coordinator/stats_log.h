// StatsLog: a line every now and then that says how busy the replica is, while there is traffic.
#pragma once

#include "absl/time/time.h"
#include "common/metrics.h"
#include "coordinator/engine.h"

namespace interlace {

// Owned by main; one thread. Rates are those since the line before.
class StatsLog {
 public:
  explicit StatsLog(const Metrics& metrics) : metrics_(metrics) {}
  // Logs "stats" with prompt and generation tokens a second, who runs, waits and is parked, the share of KV in use and
  // of prompt tokens that the cache gave; nothing while nobody is there and no token came since. True: a line was
  // logged.
  bool Tick(absl::Time now, const EngineLoad& load);

 private:
  struct Totals {
    double prompt = 0, generation = 0, queries = 0, hits = 0;
  };
  const Metrics& metrics_;
  absl::Time last_ = absl::InfinitePast();
  Totals before_;
};

}  // namespace interlace
