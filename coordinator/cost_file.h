// CostFile: the file in which a coordinator keeps what its cost model has learned.
#pragma once

#include <string>
#include <utility>

#include "coordinator/learned_costs.h"

namespace interlace {

// Setting coordinator.state; an empty path keeps nothing. Owned by main; thread: main's, since files may take long.
class CostFile {
 public:
  explicit CostFile(std::string path) : path_(std::move(path)) {}

  bool used() const { return !path_.empty(); }
  // A file that is damaged is logged, and nothing was learned. The same of a file that is something else's, or cannot
  // be read: that one is never written.
  LearnedCosts Read();
  // A failure is logged.
  void Keep(const LearnedCosts& costs);

 private:
  std::string path_;
};

}  // namespace interlace
