// Scheduler: what a step computes, and over how many ranks of a stage its rows are divided.
#include <vector>

#include "coordinator/row_cuts.h"
#include "coordinator/scheduler.h"

namespace interlace {

StepWork Scheduler::WorkOf(const StepPlan& plan) {
  StepWork work;
  for (const PlanSequence& s : plan.sequences) work.Add(s.start, static_cast<int32_t>(s.tokens.size()));
  return work;
}

// Degree and cuts are decided for each step alone: every rank of the stage has all weights and all KV, so any of them
// can go on with any rows.
void Scheduler::DivideRows(StepPlan* plan) const {
  if (shape()->sequence_ranks == 1) return;
  const int32_t ranks = cost_.RowRanks(WorkOf(*plan));
  if (ranks == 1) return;
  std::vector<RowRun> runs;
  for (const PlanSequence& s : plan->sequences) runs.push_back({s.start, static_cast<int32_t>(s.tokens.size())});
  plan->row_cuts = CutRows(runs, ranks, {cost_.row_seconds(), cost_.product_seconds()});
}

}  // namespace interlace
