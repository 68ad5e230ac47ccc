#include "common/fault.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<FaultPoints>> FaultPoints::Parse(absl::string_view text, uint64_t seed) {
  auto points = std::make_unique<FaultPoints>();
  points->entropy_ = MakeSeededEntropy(seed);
  for (absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(item, absl::MaxSplits(':', 1));
    if (std::find(std::begin(kFaultPoints), std::end(kFaultPoints), parts.first) == std::end(kFaultPoints)) {
      return absl::InvalidArgumentError(absl::StrCat("fault.points: no point is called '", parts.first,
                                                     "'; known: ", absl::StrJoin(kFaultPoints, ", ")));
    }
    double probability = 0;
    if (!absl::SimpleAtod(parts.second, &probability) || !(probability >= 0 && probability <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("fault.points: '", item, "' needs a probability in [0, 1] after the colon"));
    }
    points->armed_[std::string(parts.first)].probability = probability;
  }
  return points;
}

bool FaultPoints::Fires(absl::string_view point) {
  auto it = armed_.find(point);
  if (it == armed_.end()) return false;
  absl::MutexLock lock(&mutex_);
  const double draw = static_cast<double>(entropy_->Next() >> 11) * 0x1.0p-53;
  if (draw >= it->second.probability) return false;
  ++it->second.fired;
  return true;
}

uint64_t FaultPoints::Draw() {
  absl::MutexLock lock(&mutex_);
  return entropy_ ? entropy_->Next() : 0;
}

int64_t FaultPoints::fired(absl::string_view point) const {
  absl::MutexLock lock(&mutex_);
  auto it = armed_.find(point);
  return it == armed_.end() ? 0 : it->second.fired;
}

}  // namespace interlace
