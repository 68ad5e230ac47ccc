// ThreadTeam: the compute threads of a CPU backend.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace interlace {

// A fixed team of threads; the caller of ParallelFor is one of them. The Backend owns it, and the runner thread alone
// calls it. The trap: a body must write only what its own range owns, since any thread may run any range.
//
// Work is taken, not dealt: a thread that has nothing to do takes the next range, and the call returns when all ranges
// are done, whether or not every thread came. A thread whose core is busy with another process therefore holds up at
// most the one range that it has begun. Idle threads spin for some tens of microseconds and then sleep.
class ThreadTeam {
 public:
  static constexpr int kMostThreads = 1024;
  static constexpr int kChunksPerThread = 4;  // ranges of a call, at most

  explicit ThreadTeam(int threads);  // 1 to kMostThreads
  ~ThreadTeam();
  int threads() const;
  // Splits [0, count) into at most kChunksPerThread * threads() ranges whose borders are multiples of `grain`; returns
  // when all ran.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace interlace
