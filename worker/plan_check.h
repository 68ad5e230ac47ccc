// What a rank can execute: checks of plans that need nothing but the plan and the rank's limits.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "model/lora.h"
#include "proto/plan/step_plan.h"

namespace interlace {

struct PlanLimits {
  int32_t vocab = 0;
  int32_t layers = 0;                 // of the model
  int32_t max_tokens = 0;             // rows of the largest step
  int32_t max_samples = 0;            // rows that sample in one step
  int32_t sequence_ranks = 1;         // of the stage, that may divide the rows of a step
  bool whole_model = false;           // the rank holds all of it, and so can make guesses of its own
  bool draft_model = false;           // and a second model that can
  const LoraSet* adapters = nullptr;  // those that it has; null: none
};

// InvalidArgument: the plan is broken as a whole, which is a fault of the coordinator or of the configuration; it names
// the setting to change. What is wrong with one sequence is no such fault.
absl::Status CheckPlan(const StepPlan& plan, const PlanLimits& limits);

// Why this sequence cannot run, naming the field; empty: nothing speaks against it.
std::string WhyRefused(const PlanSequence& sequence, const PlanLimits& limits);

}  // namespace interlace
