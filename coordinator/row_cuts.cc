#include "coordinator/row_cuts.h"

namespace interlace {
namespace {

// The rows from the run's first on whose cost is nearest to `want`, and at most that of the run.
int32_t RowsOf(const RowRun& run, const RowCost& cost, double want) {
  const auto of_first = [&](int32_t count) { return CostOf({run.start, count}, cost); };
  int32_t low = 0, high = run.count;  // of_first(low) <= want, and of_first(high) >= want or high is all
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (of_first(middle) <= want ? low : high) = middle;
  }
  return want - of_first(low) <= of_first(high) - want ? low : high;
}

}  // namespace

double CostOf(const RowRun& run, const RowCost& cost) {
  const double start = run.start, count = run.count;
  return count * cost.row + cost.product * (count * start + count * (count + 1) / 2);
}

std::vector<int32_t> CutRows(absl::Span<const RowRun> runs, int32_t ranks, const RowCost& cost) {
  const RowCost known = cost.row > 0 || cost.product > 0 ? cost : RowCost();
  double total = 0;
  for (const RowRun& run : runs) total += CostOf(run, known);
  std::vector<int32_t> cuts;
  size_t at = 0;      // the run in which the next cut lies, or the last one
  double before = 0;  // cost of the runs before it
  int32_t row = 0;    // its first row
  for (int32_t r = 1; r < ranks; ++r) {
    const double want = total * r / ranks;
    while (at + 1 < runs.size() && before + CostOf(runs[at], known) < want) {
      before += CostOf(runs[at], known);
      row += runs[at].count;
      ++at;
    }
    cuts.push_back(runs.empty() ? 0 : row + RowsOf(runs[at], known, want - before));
  }
  return cuts;
}

}  // namespace interlace
