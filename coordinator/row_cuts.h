// Where the ranks of a stage divide the rows of a step; pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace interlace {

// Rows of one sequence in a step: positions start, start + 1, ..
struct RowRun {
  int32_t start = 0;
  int32_t count = 0;
};

// A row at position p costs row + product * (p + 1): the products with weights, and attention to itself and all before
// it.
struct RowCost {
  double row = 1;
  double product = 0;
};

double CostOf(const RowRun& run, const RowCost& cost);

// StepPlan::row_cuts for `ranks` ranks: runs of consecutive rows whose costs are as even as whole rows allow, none more
// than half of the dearest row beside its cut from where it should be. Later rows of a prompt see more, so later ranks
// get fewer of them: 200 rows from position 0 on with row = 100 and product = 1 are cut at {124}. A run of rows need
// not be one sequence's. Requires: ranks >= 1, no cost below 0.
std::vector<int32_t> CutRows(absl::Span<const RowRun> runs, int32_t ranks, const RowCost& cost);

}  // namespace interlace
