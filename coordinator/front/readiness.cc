#include "coordinator/front/readiness.h"

#include <utility>

namespace interlace {

ReadinessWatch::ReadinessWatch(Engine& engine, std::function<void(bool)> changed)
    : engine_(engine), changed_(std::move(changed)), thread_("readiness", [this] { Run(); }) {}

ReadinessWatch::~ReadinessWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.Join();
}

void ReadinessWatch::Run() {
  bool ready = IsReady(engine_.Load());
  changed_(ready);
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), absl::Milliseconds(250))) return;
    }
    const bool now = IsReady(engine_.Load());
    if (now != ready) changed_(now);
    ready = now;
  }
}

}  // namespace interlace
