// The ways to run a model that `interlace bench skip` compares, and texts run by them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/study/skip_study.h"
#include "cli/skip_model.h"
#include "common/entropy.h"

namespace interlace {

struct SkipText {
  std::string task;
  std::vector<int32_t> tokens;
};

// Of each task, the first half of its texts, which plans are made from, and the others; of a task with one text, both
// are that. Indices.
struct SkipHalves {
  std::map<std::string, std::vector<size_t>> calibration;
  std::vector<size_t> measured;
};
SkipHalves HalvesOf(absl::Span<const SkipText> texts);

// By method of kSkipMethods, the inner sublayers in the order in which they are passed over; "even" has none.
using SkipOrders = std::map<std::string, std::vector<int32_t>>;
// `all`: the calibration prompts of all tasks, `task`: of the text's own; `own`: the text's, null: no such order.
SkipOrders OrdersFor(int32_t layers, absl::Span<const SkipPrompt* const> all, absl::Span<const SkipPrompt* const> task,
                     const SkipPrompt* own, Entropy& entropy);
// For one of the profiled texts.
SkipOrders OrdersFor(const SkipResult& result, const SkipHalves& halves, size_t index, Entropy& entropy);
// The calibration prompts of all tasks.
std::vector<const SkipPrompt*> CalibrationOf(const SkipResult& result, const SkipHalves& halves);

struct SkipWay {
  std::string method;  // of kSkipWays, or "whole"
  double setting = 0;  // as of QualitySample
  SkipPlan plan;
  std::optional<ExitRule> exit;  // in place of the plan
};

struct SkipWayOptions {
  std::vector<double> shares = {0.1, 0.2, 0.3, 0.45};  // of the inner sublayers that plans pass over
  std::vector<double> truncations;                     // of the layers, that run before the last
  std::vector<double> looks;                           // of the layers, behind which the head is asked
  std::vector<double> leads;                           // with which a row leaves there
};
// Inner sublayers of a share.
int32_t PassedOf(double share, int32_t layers);
// The plan of a method of kSkipMethods. Requires: the order is there, but for "even".
SkipPlan PlanFor(const SkipOrders& orders, const std::string& method, int32_t passed, int32_t layers);
// All of them, by kSkipWays; those of a method without an order are left out.
std::vector<SkipWay> WaysFor(const SkipOrders& orders, const SkipWayOptions& options, int32_t layers);

// What rows cost that were run one way.
struct WayCost {
  int64_t rows = 0;
  double passed = 0;      // shares of the model's sublayers, summed over rows
  TokenCost cost, whole;  // of the rows; as the whole model would have run them
};

// Runs one sequence by one way after another. Owned by the measurement; thread: one. The trap: whoever runs the model
// by other means calls Forget.
class WayRunner {
 public:
  explicit WayRunner(SkipModel& model) : model_(model) {}

  // Computes the positions of `tokens` with the whole model; those that it already has are left alone.
  void Prepare(absl::Span<const int32_t> tokens);
  void Forget() { whole_.clear(); }
  // Computes positions start, start + 1, .. one way. `cost` may be null. Requires: those before are computed.
  absl::Status Run(int32_t start, absl::Span<const int32_t> tokens, const SkipWay& way, WayCost* cost);
  // Greedy tokens behind position start, where `token` stands, until `done` says so of those so far.
  absl::StatusOr<std::vector<int32_t>> Decode(int32_t start, int32_t token, const SkipWay& way,
                                              absl::FunctionRef<bool(absl::Span<const int32_t>)> done, WayCost* cost);

 private:
  void Count(int32_t start, size_t rows, const SkipPlan& plan, WayCost* cost) const;
  void Count(int32_t start, absl::Span<const ExitedRow> rows, WayCost* cost) const;

  SkipModel& model_;
  std::vector<int32_t> whole_;  // positions from the first on whose KV is the whole model's
};

}  // namespace interlace
