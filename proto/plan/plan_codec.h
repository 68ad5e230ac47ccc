// Plans and results to and from their wire form.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "proto/plan/step_plan.h"

namespace interlace::v1 {
class StepPlanMessage;
class StepResultMessage;
class Register;
}  // namespace interlace::v1

namespace interlace {

inline constexpr size_t kSessionBytes = 16;  // of Register.session

void EncodePlan(const StepPlan& plan, v1::StepPlanMessage* out);
void EncodeResult(const StepResult& result, v1::StepResultMessage* out);
void EncodeRank(const RankInfo& rank, v1::Register* out);

// InvalidArgument names the field that no engine of ours writes (negative positions, empty sequences, unknown kinds).
absl::StatusOr<StepPlan> DecodePlan(const v1::StepPlanMessage& message);
absl::StatusOr<StepResult> DecodeResult(const v1::StepResultMessage& message);
absl::StatusOr<RankInfo> DecodeRank(const v1::Register& message);

}  // namespace interlace
