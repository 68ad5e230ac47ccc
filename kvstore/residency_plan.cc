#include "kvstore/residency_plan.h"

#include "absl/strings/str_cat.h"

namespace interlace {

int32_t LayerResidencyPlan::KeptIn(int32_t begin, int32_t end) const {
  if (layers <= 0 || end <= begin) return 0;
  // The sum of KeepsLayer over [begin, end) telescopes.
  return static_cast<int32_t>(int64_t{end} * keep / layers - int64_t{begin} * keep / layers);
}

std::string LayerResidencyPlan::ToString() const { return absl::StrCat(keep, "/", layers, " kept"); }

}  // namespace interlace
