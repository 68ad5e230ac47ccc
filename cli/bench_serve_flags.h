// BenchServeFlags: `interlace bench serve` as it is typed.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cli/bench_serve_command.h"

namespace CLI {
class App;
}

namespace interlace {

// Owned by main; lives as long as the command that it was added to.
class BenchServeFlags {
 public:
  BenchServeFlags();
  ~BenchServeFlags();
  void AddTo(CLI::App* command);
  // InvalidArgument names the flag, its value and the way out.
  absl::StatusOr<BenchServeOptions> Finish() const;

 private:
  struct Typed;
  std::unique_ptr<Typed> typed_;
};

}  // namespace interlace
