#include "bench/study/study_run.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/load_figures.h"
#include "common/status_macros.h"

namespace interlace {

bool ParksStreams(const Policy& policy) {
  const CostModel cost;
  const LengthHistory lengths;
  StepView view;
  view.layers = view.block_tokens = 1;
  view.cost = &cost;
  view.lengths = &lengths;
  return policy.compose(view).park_streams;
}

absl::StatusOr<std::vector<StudyLine>> ParseStudyLines(const std::string& policies, const std::string& parked) {
  std::vector<std::pair<std::string, int32_t>> bounds;
  for (absl::string_view text : absl::StrSplit(parked, ',', absl::SkipWhitespace())) {
    int32_t bound = kAnyNumberParked;
    if (text != "none" && (!absl::SimpleAtoi(text, &bound) || bound < 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--parked ", parked, ": ", text, " is no number above 0, nor none; write it like 1,4,16,none"));
    }
    bounds.emplace_back(text, bound);
  }
  std::vector<StudyLine> lines;
  for (absl::string_view name : absl::StrSplit(policies, ',', absl::SkipWhitespace())) {
    const absl::StatusOr<const Policy*> policy = FindPolicy(name);
    if (!policy.ok()) return absl::InvalidArgumentError(absl::StrCat("--policies: ", policy.status().message()));
    if (!ParksStreams(**policy)) {
      lines.push_back({std::string(name), *policy});
      continue;
    }
    for (const auto& [text, bound] : bounds) lines.push_back({absl::StrCat(name, " ", text), *policy, bound});
  }
  if (lines.empty()) {
    return absl::InvalidArgumentError(
        "nothing to compare: --policies and --parked name nothing; leave them out for all");
  }
  return lines;
}

absl::StatusOr<std::vector<PlannedRequest>> PlannedOf(const LoadPlanSpec& spec) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadPlan> plan, LoadPlan::Make(spec));
  std::vector<PlannedRequest> planned;
  while (std::optional<std::vector<PlannedRequest>> turns = plan->Next()) {
    if (turns->size() != 1) return absl::InvalidArgumentError("virtual time has no sessions of several turns");
    planned.push_back(std::move(turns->front()));
  }
  return planned;
}

absl::StatusOr<StudyRun> RunStudyVirtually(const VirtualRun& base, const StudyRequest& request) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadPlan> plan, LoadPlan::Make(request.plan));
  ASSIGN_OR_RETURN(const std::vector<PlannedRequest> planned, PlannedOf(request.plan));
  VirtualRun setup = base;
  setup.policy = request.line.policy;
  setup.options.policy.max_parked = request.line.parked;
  if (request.roomy) setup.shape.device_slots = 1 << 24;
  VirtualOutcome outcome = RunVirtually(setup, planned);
  StudyRun made{.run = std::move(outcome.run),
                .parks = outcome.parks,
                .stall = outcome.stall,
                .transferred = static_cast<double>((outcome.traffic.in + outcome.traffic.out) * setup.shape.slot_bytes),
                .shape = setup.shape};
  made.run.server = "in virtual time";
  DescribeRun(request, *plan, &made.run);
  return made;
}

void DescribeRun(const StudyRequest& request, const LoadPlan& plan, LoadRun* run) {
  run->label = request.line.label;
  run->dataset = plan.dataset_description();
  run->arrivals = plan.arrivals_description();
  run->offered_rate = request.plan.arrivals.process == "poisson" ? request.plan.arrivals.rate : 0;
  run->seed = request.plan.seed;
}

uint64_t AnswerHash(const RequestRecord& record) {
  if (record.outcome != LoadOutcome::kOk || record.text.empty()) return 0;
  return std::max<uint64_t>(1, absl::HashOf(record.text));
}

double MedianOfValues(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return SortedQuantile(values, 0.5);
}

}  // namespace interlace
