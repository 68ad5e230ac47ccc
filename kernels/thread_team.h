// ThreadTeam: the compute threads of a CPU backend.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace interlace {

// A fixed team; the caller is one of them. Owned by the Backend; ParallelFor is called by the runner thread alone.
// The trap: a body must write only what its own range owns, so that results do not depend on the number of threads.
class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);  // threads >= 1
  ~ThreadTeam();
  int threads() const;
  // Splits [0, count) into at most threads() ranges whose borders are multiples of `grain`; returns when all ran.
  void ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace interlace
