#include "coordinator/cost_file.h"

#include "common/log.h"
#include "common/state_file.h"

namespace interlace {
namespace {

constexpr size_t kMostBytes = 1 << 20;

}  // namespace

LearnedCosts CostFile::Read() {
  if (!used()) return {};
  const absl::StatusOr<std::string> text = ReadStateFile(path_, kMostBytes);
  if (absl::IsNotFound(text.status())) return {};
  absl::StatusOr<LearnedCosts> costs = text.ok() ? LearnedCosts::Parse(*text) : text.status();
  if (costs.ok()) return *std::move(costs);
  if (absl::IsDataLoss(costs.status())) {
    LOG(WARNING) << "the cost model begins anew: coordinator.state is damaged, and will be written anew"
                 << Field("path", path_) << costs.status();
    return {};
  }
  LOG(WARNING) << "the cost model begins anew and is not kept: coordinator.state is another program's file"
               << Field("path", path_) << costs.status();
  path_.clear();
  return {};
}

void CostFile::Keep(const LearnedCosts& costs) {
  if (!used() || costs.size() == 0) return;
  const absl::Status written = ReplaceStateFile(path_, costs.Print());
  if (!written.ok()) LOG(WARNING) << "what the cost model learned is not kept" << written;
}

}  // namespace interlace
