// ReadinessWatch: tells when the engine becomes able to serve, or stops being so.
#pragma once

#include <functional>

#include "absl/synchronization/mutex.h"
#include "common/thread.h"
#include "coordinator/engine.h"

namespace interlace {

// Whether a new request would find every rank of a replica, and is not refused for draining.
inline bool IsReady(const EngineLoad& load) {
  const bool whole = load.ranks > 0 && load.ranks_ready == load.ranks;
  return (whole || load.replicas_ready > 0) && !load.draining;
}

// Looks at the load four times a second, since an Engine is asked and does not tell. Owned by main. `changed` runs on
// the watch's own thread, first with the state at the start. The trap: it must not outlive the engine.
class ReadinessWatch {
 public:
  ReadinessWatch(Engine& engine, std::function<void(bool ready)> changed);
  ~ReadinessWatch();

 private:
  void Run();

  Engine& engine_;
  const std::function<void(bool)> changed_;
  absl::Mutex mutex_;
  bool stop_ = false;  // protected by mutex_
  Thread thread_;
};

}  // namespace interlace
