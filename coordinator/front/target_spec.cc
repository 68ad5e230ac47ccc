#include "coordinator/front/target_spec.h"

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/sampling_spec.h"

namespace interlace {
namespace {

constexpr absl::Duration kLongest = absl::Hours(24 * 365);
constexpr absl::string_view kTargetRange = "above 0 and at most 31536000000 milliseconds, a year";
constexpr absl::string_view kDeadlineRange = "0 to 31536000000 milliseconds, a year";
constexpr size_t kLongestLabel = 128;  // bytes

struct Row {
  absl::string_view field;
  std::optional<double> TargetSpec::*ms;
  std::optional<absl::Duration> Targets::*target;
};
constexpr Row kTimes[] = {{"slo.ttft_ms", &TargetSpec::ttft_ms, &Targets::ttft},
                          {"slo.tpot_ms", &TargetSpec::tpot_ms, &Targets::tpot},
                          {"slo.largest_gap_ms", &TargetSpec::largest_gap_ms, &Targets::largest_gap}};

}  // namespace

absl::Status CheckTarget(absl::string_view field, double ms) {
  const absl::Duration time = absl::Milliseconds(ms);
  if (time > absl::ZeroDuration() && time <= kLongest) return absl::OkStatus();
  return OutOfRange(field, ms, kTargetRange);
}

absl::Status CheckDeadline(absl::string_view field, double ms) {
  if (ms >= 0 && absl::Milliseconds(ms) <= kLongest) return absl::OkStatus();
  return OutOfRange(field, ms, kDeadlineRange);
}

absl::Status CheckPriority(absl::string_view field, int64_t value) {
  using Limits = std::numeric_limits<int32_t>;
  if (value >= Limits::min() && value <= Limits::max()) return absl::OkStatus();
  return BadField(field, absl::StrCat(value, " is out of range: it must be ", Limits::min(), " to ", Limits::max(),
                                      ", lower is earlier"));
}

absl::Status CheckLabel(absl::string_view field, absl::string_view value) {
  if (value.size() <= kLongestLabel &&
      std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; })) {
    return absl::OkStatus();
  }
  return BadField(field, absl::StrCat("'", absl::CHexEscape(value.substr(0, 40)), value.size() > 40 ? "...' " : "' ",
                                      "must be at most 128 printable ASCII characters"));
}

absl::Status CheckTargets(const TargetSpec& spec) {
  for (const Row& row : kTimes) {
    if (const std::optional<double>& ms = spec.*row.ms) RETURN_IF_ERROR(CheckTarget(row.field, *ms));
  }
  if (spec.deadline_ms) RETURN_IF_ERROR(CheckDeadline("deadline_ms", *spec.deadline_ms));
  RETURN_IF_ERROR(CheckPriority("priority", spec.priority.value_or(0)));
  return CheckLabel("fairness_id", spec.fairness_id.value_or(""));
}

Targets TargetsOf(const TargetSpec& spec, const Targets& defaults) {
  Targets targets = defaults;
  for (const Row& row : kTimes) {
    if (const std::optional<double>& ms = spec.*row.ms) targets.*row.target = absl::Milliseconds(*ms);
  }
  if (spec.priority) targets.priority = static_cast<int32_t>(*spec.priority);
  if (spec.fairness_id) targets.tenant = *spec.fairness_id;
  targets.objective = spec.objective;
  return targets;
}

}  // namespace interlace
