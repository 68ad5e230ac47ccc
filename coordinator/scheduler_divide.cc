// Scheduler: over how many ranks of a stage the rows of a step are divided.
#include <vector>

#include "coordinator/row_cuts.h"
#include "coordinator/scheduler.h"

namespace interlace {

// Degree and cuts are decided for each step alone: every rank of the stage has all weights and all KV, so any of them
// can go on with any rows.
void Scheduler::DivideRows(StepPlan* plan) const {
  if (shape()->sequence_ranks == 1) return;
  StepWork work;
  std::vector<RowRun> runs;
  for (const PlanSequence& s : plan->sequences) {
    runs.push_back({s.start, static_cast<int32_t>(s.tokens.size())});
    work.Add(runs.back().start, runs.back().count);
  }
  const int32_t ranks = cost_.RowRanks(work);
  if (ranks > 1) plan->row_cuts = CutRows(runs, ranks, {cost_.row_seconds(), cost_.product_seconds()});
}

}  // namespace interlace
