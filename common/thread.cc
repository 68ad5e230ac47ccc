#include "common/thread.h"

#include <pthread.h>
#include <sched.h>

#include <utility>

#include "common/cpu_quota.h"

namespace interlace {

Thread::Thread(std::string name, absl::AnyInvocable<void()> body)
    : thread_([name = std::move(name), body = std::move(body)]() mutable {
        pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
        body();
      }) {}

void Thread::Join() {
  if (thread_.joinable()) thread_.join();
}

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return UsefulThreads(CPU_COUNT(&set), CpuQuotaOfThisProcess());
}

}  // namespace interlace
