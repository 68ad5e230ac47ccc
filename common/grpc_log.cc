#include "common/grpc_log.h"

#include <grpc/support/log.h>

#include <optional>

#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/log_limit.h"

namespace interlace {
namespace {

// Lives as long as the process, since gRPC may speak until its end.
struct Told {
  absl::Mutex mutex;
  RealClock clock;
  LogLimit limit{absl::Seconds(1)};  // protected by mutex
};

// From any thread.
void Take(gpr_log_func_args* said) {
  static Told* const told = new Told;
  std::optional<int64_t> held_back;
  {
    absl::MutexLock lock(&told->mutex);
    held_back = told->limit.Pass(told->clock.Now());
  }
  if (!held_back) return;
  LOG(WARNING) << "gRPC says" << Field("text", said->message) << Field("held_back_before", *held_back);
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(&Take); }

}  // namespace interlace
