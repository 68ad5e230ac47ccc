// LearnedCosts: what the cost models of earlier runs have learned, by what it depends on.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/cost_model.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// What the time of a step depends on: model, where it is cut, op tables, threads, type and geometry of the KV.
// Requires: a rank.
std::string CostKey(absl::Span<const RankInfo> ranks);

// A value: Scheduler learns, main keeps it in a file (setting coordinator.state). Its text is one line a model, each
// with a checksum, behind a line that says what it is.
class LearnedCosts {
 public:
  static constexpr size_t kMost = 64;  // the first ones put in go
  static constexpr absl::string_view kTitle = "interlace-costs 1";

  // FailedPrecondition: the text begins otherwise, so it is something else's. DataLoss: it is damaged.
  static absl::StatusOr<LearnedCosts> Parse(absl::string_view text);
  std::string Print() const;

  const CostModel* Find(absl::string_view key) const;  // null: nothing was learned
  void Put(absl::string_view key, const CostModel& model);
  // What `other` learned last.
  void PutLatestOf(const LearnedCosts& other) {
    if (!other.models_.empty()) Put(other.models_.back().first, other.models_.back().second);
  }
  // Of the last Put; null: there was none.
  const CostModel* latest() const { return models_.empty() ? nullptr : &models_.back().second; }
  size_t size() const { return models_.size(); }

 private:
  std::vector<std::pair<std::string, CostModel>> models_;  // in the order of their last Put
};

}  // namespace interlace
