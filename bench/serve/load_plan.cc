#include "bench/serve/load_plan.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

template <typename T>
const T& Choose(const Weighted<T>& from, Draws& draws) {
  double sum = 0;
  for (const auto& [value, weight] : from) sum += weight;
  double at = draws.Uniform() * sum;
  for (const auto& [value, weight] : from) {
    if (at < weight) return value;
    at -= weight;
  }
  return from.back().first;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadPlan>> LoadPlan::Make(const LoadPlanSpec& spec) {
  const bool closed = spec.arrivals.process == "closed", trace = spec.arrivals.process == "trace";
  if (!(spec.cancel_percent >= 0 && spec.cancel_percent <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cancel-percent ", spec.cancel_percent, " is not between 0 and 100"));
  }
  std::unique_ptr<Entropy> entropy = MakeSeededEntropy(spec.seed);
  std::unique_ptr<LoadPlan> plan(new LoadPlan(spec, closed));
  ASSIGN_OR_RETURN(plan->dataset_, MakeDataset(spec.dataset, entropy->Fork("dataset")));
  if (trace && !plan->dataset_->is_trace()) {
    return absl::InvalidArgumentError(absl::StrCat("--arrivals trace: the dataset ", spec.dataset.kind,
                                                   " has no times; give a trace (mooncake, burstgpt, azure) or another "
                                                   "process, such as poisson"));
  }
  if (spec.requests <= 0 && spec.duration <= absl::ZeroDuration() && !plan->dataset_->is_trace()) {
    return absl::InvalidArgumentError("a run without end: give --requests or --duration");
  }
  if (!closed && !trace) {
    ASSIGN_OR_RETURN(plan->arrivals_, MakeArrivals(spec.arrivals, entropy->Fork("arrivals")));
  }
  plan->arrivals_description_ = trace    ? absl::StrCat("trace x", spec.dataset.time_scale)
                                : closed ? "closed"
                                         : DescribeArrivals(spec.arrivals);
  for (const auto& [draws, name] : {std::pair(&plan->tenant_, "tenants"),
                                    {&plan->priority_, "priorities"},
                                    {&plan->cancel_, "cancel"},
                                    {&plan->think_, "think"}}) {
    *draws = std::make_unique<Draws>(entropy->Fork(name));
  }
  return plan;
}

std::optional<std::vector<PlannedRequest>> LoadPlan::Next() {
  if (spec_.requests > 0 && planned_ >= spec_.requests) return std::nullopt;
  std::optional<Conversation> conversation = dataset_->Next();
  if (!conversation) return std::nullopt;
  absl::Duration due;
  if (arrivals_ != nullptr) {
    due = arrivals_->Next();
  } else if (!closed_) {
    due = conversation->due.value_or(absl::ZeroDuration());
  }
  if (spec_.duration > absl::ZeroDuration() && due >= spec_.duration) return std::nullopt;
  std::vector<PlannedRequest> turns = std::move(conversation->turns);
  if (spec_.requests > 0) {
    turns.resize(std::min(turns.size(), static_cast<size_t>(spec_.requests - planned_)));
  }
  const int64_t session = turns.size() > 1 ? sessions_++ : -1;
  for (size_t turn = 0; turn < turns.size(); ++turn) {
    PlannedRequest& request = turns[turn];
    request.index = planned_++;
    request.session = session;
    request.turn = static_cast<int32_t>(turn);
    if (turn == 0) request.due = due;
    if (turn > 0 && spec_.dataset.think > absl::ZeroDuration()) {
      request.think = absl::Seconds(think_->Exponential(absl::ToDoubleSeconds(spec_.dataset.think)));
    }
    Decorate(&request);
  }
  return turns;
}

void LoadPlan::Decorate(PlannedRequest* request) {
  request->targets = spec_.targets;
  request->deadline = spec_.deadline;
  if (!spec_.tenants.empty()) request->tenant = Choose(spec_.tenants, *tenant_);
  if (!spec_.priorities.empty()) request->priority = Choose(spec_.priorities, *priority_);
  if (spec_.cancel_percent > 0 && cancel_->Uniform() * 100 < spec_.cancel_percent) {
    request->cancel_after_tokens = 1 + static_cast<int32_t>(cancel_->Below(std::max(1, request->max_tokens)));
  }
}

absl::StatusOr<Weighted<std::string>> ParseWeighted(absl::string_view flag, absl::string_view text) {
  Weighted<std::string> out;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<std::string, std::string> cut = absl::StrSplit(part, absl::MaxSplits(':', 1));
    double weight = 1;
    const bool plain =
        std::all_of(cut.first.begin(), cut.first.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
    if (cut.first.empty() || !plain || (!cut.second.empty() && !absl::SimpleAtod(cut.second, &weight)) ||
        !(weight > 0) || !std::isfinite(weight)) {
      return absl::InvalidArgumentError(absl::StrCat(flag, " ", text, ": \"", part,
                                                     "\" is no VALUE or VALUE:WEIGHT; "
                                                     "write it like a:3,b:1"));
    }
    out.emplace_back(cut.first, weight);
  }
  return out;
}

absl::StatusOr<Weighted<int32_t>> ParseWeightedNumbers(absl::string_view flag, absl::string_view text) {
  ASSIGN_OR_RETURN(const Weighted<std::string> texts, ParseWeighted(flag, text));
  Weighted<int32_t> out;
  for (const auto& [value, weight] : texts) {
    int32_t number = 0;
    if (!absl::SimpleAtoi(value, &number)) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", text, ": ", value, " is no number; write it like 0:9,5:1"));
    }
    out.emplace_back(number, weight);
  }
  return out;
}

}  // namespace interlace
