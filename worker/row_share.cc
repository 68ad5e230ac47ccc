#include "worker/row_share.h"

#include <algorithm>
#include <cstring>

namespace interlace {
namespace {

void CopyRows(const Tensor& from, const Tensor& to) {
  if (from.rows > 0) std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
}

// Marks rows [begin, end) of a sequence that has rows [0, count) from row `first` of the step on. What a broken ask
// names beyond them is left out: the rank refuses that sequence.
void Mark(int64_t first, int64_t count, int64_t begin, int64_t end, std::vector<bool>* marked) {
  for (int64_t r = std::max<int64_t>(0, begin); r < std::min(end, count); ++r) (*marked)[first + r] = true;
}

template <typename MarkRows>
std::vector<int64_t> MarkedRows(const StepPlan& plan, MarkRows mark) {
  std::vector<bool> marked(static_cast<size_t>(plan.tokens()));
  int64_t first = 0;
  for (const PlanSequence& s : plan.sequences) {
    mark(s, first, static_cast<int64_t>(s.tokens.size()), &marked);
    first += static_cast<int64_t>(s.tokens.size());
  }
  std::vector<int64_t> rows;
  for (size_t r = 0; r < marked.size(); ++r) {
    if (marked[r]) rows.push_back(static_cast<int64_t>(r));
  }
  return rows;
}

}  // namespace

ShardRange RowsOfRank(const StepPlan& plan, int32_t rank) {
  const auto end_of = [&plan](int32_t r) -> int64_t {
    return r < static_cast<int32_t>(plan.row_cuts.size()) ? plan.row_cuts[static_cast<size_t>(r)] : plan.tokens();
  };
  return {rank == 0 ? 0 : end_of(rank - 1), end_of(rank)};
}

std::vector<int64_t> RowsOfResult(const StepPlan& plan) {
  return MarkedRows(plan, [](const PlanSequence& s, int64_t first, int64_t count, std::vector<bool>* marked) {
    if (s.sample) Mark(first, count, count - 1 - s.drafts, count, marked);
    if (s.pool != Pooling::kNone) Mark(first, count, 0, count, marked);
    if (!s.score) return;
    const int64_t scored = s.score->first;
    Mark(first, count, scored, scored + static_cast<int64_t>(s.score->targets.size()), marked);
  });
}

std::vector<int64_t> RowsOfKeys(const StepPlan& plan, LayerId layer) {
  return MarkedRows(plan, [layer](const PlanSequence& s, int64_t first, int64_t count, std::vector<bool>* marked) {
    if (s.key && s.key->layer == layer) Mark(first, count, 0, count, marked);
  });
}

RowShare::RowShare(const Options& options, StageGroup& group, LayerPager& pager, Clock& clock)
    : options_(options), group_(group), pager_(pager), clock_(clock) {}

void RowShare::Begin(const StepPlan& plan) {
  divided_ = !plan.row_cuts.empty();
  exchanged_ = absl::ZeroDuration();
  rows_.clear();
  kv_rows_.clear();
  cuts_.clear();
  for (int32_t r = 0; r < options_.ranks; ++r) {
    const ShardRange rows = divided_ ? RowsOfRank(plan, r) : ShardRange{0, plan.tokens()};
    if (r == options_.rank) begin_ = rows.begin;
    rows_.push_back(rows.size());
    kv_rows_.push_back(2 * rows.size());
    cuts_.push_back(rows.end);
  }
}

std::vector<Tensor> RowShare::Exchange(absl::Span<const int64_t> rows, int64_t cols) {
  const absl::Time begin = clock_.Now();
  std::vector<Tensor> parts = group_.Gather(rows, cols);
  exchanged_ += clock_.Now() - begin;
  return parts;
}

void RowShare::Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  const Tensor part = group_.Part(2 * k.rows, options_.kv_width);
  CopyRows(k, part.Rows(0, k.rows));
  CopyRows(v, part.Rows(k.rows, v.rows));
  const std::vector<Tensor> parts = Exchange(kv_rows_, options_.kv_width);
  if (parts.empty()) return;
  std::vector<KvRows> all;
  for (size_t r = 0; r < parts.size(); ++r) {
    if (rows_[r] == 0) continue;
    all.push_back({cuts_[r] - rows_[r], parts[r].Rows(0, rows_[r]), parts[r].Rows(rows_[r], rows_[r])});
  }
  pager_.AttendRows(layer, begin_, q, all, out);
}

void RowShare::Gather(absl::Span<const int64_t> rows, const Tensor& x) {
  std::vector<int64_t> given;  // rows of each rank among them
  int64_t before = 0;
  for (const int64_t cut : cuts_) {
    const auto end = std::lower_bound(rows.begin(), rows.end(), cut) - rows.begin();
    given.push_back(end - before);
    before = end;
  }
  const int64_t own = given[static_cast<size_t>(options_.rank)];
  const auto mine = std::lower_bound(rows.begin(), rows.end(), begin_);
  const Tensor part = group_.Part(own, x.cols);
  for (int64_t i = 0; i < own; ++i) CopyRows(x.Rows(mine[i], 1), part.Rows(i, 1));
  const std::vector<Tensor> parts = Exchange(given, x.cols);
  auto row = rows.begin();
  for (const Tensor& of_rank : parts) {
    for (int64_t i = 0; i < of_rank.rows; ++i, ++row) CopyRows(of_rank.Rows(i, 1), x.Rows(*row, 1));
  }
}

}  // namespace interlace
