// One run of a study: which policy under which load, what came of it, and how the same load runs in virtual time.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "bench/policy/virtual_replica.h"
#include "bench/serve/load_plan.h"
#include "bench/serve/load_record.h"
#include "bench/study/law_fit.h"
#include "coordinator/policy/policy.h"

namespace interlace {

inline constexpr int32_t kAnyNumberParked = std::numeric_limits<int32_t>::max();

// One line of a study's pictures.
struct StudyLine {
  std::string label;  // "fcfs", "slack 4"
  const Policy* policy = nullptr;
  int32_t parked = kAnyNumberParked;  // sched.max_parked
};
// Whether the policy parks streams, so that the bound on parked requests means something to it.
bool ParksStreams(const Policy& policy);
// A line for each policy, and one for each bound where the policy parks streams. InvalidArgument names --policies or
// --parked; bounds are numbers, or "none".
absl::StatusOr<std::vector<StudyLine>> ParseStudyLines(const std::string& policies, const std::string& parked);

struct StudyRun {
  LoadRun run;
  LawFit steps;  // of a run in virtual time: none
  double parks = 0;
  double stall = 0;        // seconds that layers waited for KV
  double transferred = 0;  // bytes between device and host, both ways
  VirtualShape shape;      // of the replica
  bool windowed = false;   // some layers of the model attend to a window, which virtual time does not know
};

// Makes one run of a fresh replica. `roomy`: with a device that holds all requests at once.
struct StudyRequest {
  StudyLine line;
  LoadPlanSpec plan;
  bool roomy = false;
};
using MakeStudyRun = std::function<absl::StatusOr<StudyRun>(const StudyRequest& request)>;

// All requests of a plan whose sessions have one turn.
absl::StatusOr<std::vector<PlannedRequest>> PlannedOf(const LoadPlanSpec& spec);
// The run of `request` in virtual time; `base` has the law, the shape and the scheduler's options.
absl::StatusOr<StudyRun> RunStudyVirtually(const VirtualRun& base, const StudyRequest& request);
// What a run's records do not say.
void DescribeRun(const StudyRequest& request, const LoadPlan& plan, LoadRun* run);

// What the requests say, without their times: equal for runs whose answers are the same, token by token. 0: no whole
// answer.
uint64_t AnswerHash(const RequestRecord& record);

// Shared by the pages: the value between the two in the middle, or the one there. Requires: not empty.
double MedianOfValues(std::vector<double> values);

}  // namespace interlace
