#include "common/process.h"

#include "absl/synchronization/mutex.h"

namespace interlace {

void BeginProcess() {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
}

}  // namespace interlace
