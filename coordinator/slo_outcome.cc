#include "coordinator/slo_outcome.h"

#include <utility>

namespace interlace {
namespace {

struct Row {
  absl::string_view target;
  std::optional<bool> TargetsMet::*met;
};
constexpr Row kTargets[] = {{"ttft", &TargetsMet::ttft},
                            {"tpot", &TargetsMet::tpot},
                            {"largest_gap", &TargetsMet::largest_gap},
                            {"deadline", &TargetsMet::deadline}};

}  // namespace

TargetsMet OutcomeOf(const Request& request, const RequestEnd& end) {
  const Targets& targets = request.targets;
  const bool well = end.status.ok(), left = absl::IsCancelled(end.status);
  // A target of a time that has run until now without an event that would settle it.
  const auto open = [&](bool in_time) -> std::optional<bool> {
    if (!in_time) return false;
    if (left) return std::nullopt;
    return well;
  };
  TargetsMet met;
  if (targets.ttft) {
    met.ttft =
        end.completion_tokens > 0 ? end.timing.first_token <= *targets.ttft : open(end.timing.total <= *targets.ttft);
  }
  if (targets.tpot) {
    const bool in_time = end.timing.tpot <= *targets.tpot;
    met.tpot = end.completion_tokens > 1 && (well || left) ? in_time : open(in_time);
  }
  if (targets.largest_gap) {
    const bool in_time = end.timing.largest_gap <= *targets.largest_gap;
    met.largest_gap = end.completion_tokens > 1 && (well || left) ? in_time : open(in_time);
  }
  if (request.deadline < absl::InfiniteFuture())
    met.deadline = open(request.arrival + end.timing.total <= request.deadline);
  return met;
}

bool IsGoodput(const RequestEnd& end) {
  if (!end.status.ok()) return false;
  for (const Row& row : kTargets) {
    if (!(end.met.*row.met).value_or(true)) return false;
  }
  return true;
}

void CountOutcome(const RequestEnd& end, Metrics& metrics) {
  for (const Row& row : kTargets) {
    const std::optional<bool>& met = end.met.*row.met;
    if (met) metrics.Add("interlace_slo_requests_total", 1, {{"target", row.target}, {"met", *met ? "true" : "false"}});
  }
  if (IsGoodput(end)) metrics.Add("interlace_slo_goodput_requests_total");
}

}  // namespace interlace
