#include "cli/skip_ways.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "cli/skip_logits.h"
#include "common/status_macros.h"

namespace interlace {

SkipHalves HalvesOf(absl::Span<const SkipText> texts) {
  std::map<std::string, std::vector<size_t>> tasks;
  for (size_t i = 0; i < texts.size(); ++i) tasks[texts[i].task].push_back(i);
  SkipHalves halves;
  for (const auto& [task, all] : tasks) {
    const size_t half = (all.size() + 1) / 2;
    halves.calibration[task].assign(all.begin(), all.begin() + static_cast<ptrdiff_t>(half));
    halves.measured.insert(halves.measured.end(),
                           all.size() > 1 ? all.begin() + static_cast<ptrdiff_t>(half) : all.begin(), all.end());
  }
  return halves;
}

std::vector<const SkipPrompt*> CalibrationOf(const SkipResult& result, const SkipHalves& halves) {
  std::vector<const SkipPrompt*> all;
  for (const auto& [name, indices] : halves.calibration) {
    for (const size_t i : indices) all.push_back(&result.prompts[i]);
  }
  return all;
}

SkipOrders OrdersFor(int32_t layers, absl::Span<const SkipPrompt* const> all, absl::Span<const SkipPrompt* const> task,
                     const SkipPrompt* own, Entropy& entropy) {
  SkipOrders orders = {{"static", RankSublayers(all, layers)}, {"task", RankSublayers(task, layers)}};
  std::vector<int32_t> shuffled = orders["static"];
  std::sort(shuffled.begin(), shuffled.end());
  for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[entropy.Next() % i]);
  orders["random"] = std::move(shuffled);
  if (own != nullptr) orders["own"] = RankSublayers({&own, 1}, layers);
  return orders;
}

SkipOrders OrdersFor(const SkipResult& result, const SkipHalves& halves, size_t index, Entropy& entropy) {
  const SkipPrompt& own = result.prompts[index];
  std::vector<const SkipPrompt*> task;
  for (const size_t i : halves.calibration.at(own.task)) task.push_back(&result.prompts[i]);
  return OrdersFor(result.layers, CalibrationOf(result, halves), task, &own, entropy);
}

int32_t PassedOf(double share, int32_t layers) { return static_cast<int32_t>(std::lround(share * 2 * (layers - 2))); }

SkipPlan PlanFor(const SkipOrders& orders, const std::string& method, int32_t passed, int32_t layers) {
  return method == "even" ? SkipPlan::Evenly(passed, layers) : PlanOf(orders.at(method), passed);
}

std::vector<SkipWay> WaysFor(const SkipOrders& orders, const SkipWayOptions& options, int32_t layers) {
  std::vector<SkipWay> ways;
  for (const std::string method : kSkipMethods) {
    if (method != "even" && orders.count(method) == 0) continue;
    for (const double share : options.shares) {
      ways.push_back({method, share, PlanFor(orders, method, PassedOf(share, layers), layers), std::nullopt});
    }
  }
  std::set<int32_t> exits, looks;
  const auto layers_of = [layers](double share) {
    return std::clamp(static_cast<int32_t>(std::lround(share * layers)), 1, layers - 1);
  };
  for (const double share : options.truncations) exits.insert(layers_of(share));
  for (const int32_t exit : exits) {
    ways.push_back({"truncation", static_cast<double>(exit), SkipPlan::After(exit, layers), std::nullopt});
  }
  for (const double share : options.looks) looks.insert(layers_of(share) - 1);
  if (looks.empty()) return ways;
  for (const double lead : options.leads) {
    ways.push_back({"confidence", lead, {}, ExitRule{{looks.begin(), looks.end()}, lead}});
  }
  return ways;
}

void WayRunner::Prepare(absl::Span<const int32_t> tokens) {
  size_t same = 0;
  while (same < tokens.size() && same < whole_.size() && tokens[same] == whole_[same]) ++same;
  for (size_t begin = same; begin < tokens.size(); begin += SkipModel::kMostRows) {
    model_.Run(static_cast<int32_t>(begin), tokens.subspan(begin, SkipModel::kMostRows), SkipPlan());
  }
  whole_.assign(tokens.begin(), tokens.end());
}

absl::Status WayRunner::Run(int32_t start, absl::Span<const int32_t> tokens, const SkipWay& way, WayCost* cost) {
  // What this way leaves is not the whole model's.
  whole_.resize(std::min(whole_.size(), static_cast<size_t>(start)));
  if (!way.exit) {
    model_.RunBounded(start, tokens, way.plan);
    if (cost != nullptr) Count(start, tokens.size(), way.plan, cost);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<ExitedRow> rows, model_.RunExiting(start, tokens, *way.exit));
  if (cost != nullptr) Count(start, rows, cost);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> WayRunner::Decode(int32_t start, int32_t token, const SkipWay& way,
                                                       absl::FunctionRef<bool(absl::Span<const int32_t>)> done,
                                                       WayCost* cost) {
  std::vector<int32_t> out;
  while (!done(out)) {
    RETURN_IF_ERROR(Run(start + static_cast<int32_t>(out.size()), {&token, 1}, way, cost));
    const int32_t row = 0;
    ASSIGN_OR_RETURN(const absl::Span<const float> logits, model_.Logits({&row, 1}));
    token = FirstChoice(logits);
    out.push_back(token);
  }
  return out;
}

void WayRunner::Count(int32_t start, size_t rows, const SkipPlan& plan, WayCost* cost) const {
  const int32_t layers = model_.spec().layers;
  const double passed = static_cast<double>(plan.Passed(layers)) / (2.0 * layers);
  for (size_t row = 0; row < rows; ++row) {
    const int32_t context = start + static_cast<int32_t>(row) + 1;
    cost->cost += CostOfPlan(model_.cost(), plan, context);
    cost->whole += CostOfPlan(model_.cost(), {}, context);
    cost->passed += passed;
    ++cost->rows;
  }
}

void WayRunner::Count(int32_t start, absl::Span<const ExitedRow> rows, WayCost* cost) const {
  const int32_t layers = model_.spec().layers;
  for (size_t row = 0; row < rows.size(); ++row) {
    const int32_t context = start + static_cast<int32_t>(row) + 1;
    cost->cost += CostOfExit(model_.cost(), rows[row].layers, rows[row].looks, context);
    cost->whole += CostOfPlan(model_.cost(), {}, context);
    cost->passed += static_cast<double>(layers - rows[row].layers) / layers;
    ++cost->rows;
  }
}

}  // namespace interlace
