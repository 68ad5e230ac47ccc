#include "worker/self_drafter.h"

#include <algorithm>
#include <numeric>

#include "absl/algorithm/container.h"

namespace interlace {
namespace {

// What the cache is to one stretch of a pass's rows.
class DraftKv final : public LayerKv {
 public:
  DraftKv(LayerPager& pager, absl::Span<const DraftRow> rows) : pager_(pager), rows_(rows) {}
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    pager_.AttendDraft(layer, rows_, q, k, v, out);
  }

 private:
  LayerPager& pager_;
  const absl::Span<const DraftRow> rows_;
};

}  // namespace

bool SelfDrafter::Run(const StepPlan& plan, const Tensor& x, std::byte* logits) {
  Gather(plan);
  const bool any = !rows_.empty();
  for (int32_t pass = 0; !rows_.empty(); ++pass) {
    Pass(plan, pass, x.Rows(0, static_cast<int64_t>(rows_.size())));
    Guess(plan, x.Rows(0, static_cast<int64_t>(rows_.size())), logits);
    std::erase_if(rows_, [&](const Row& row) {
      return pager_.IsLost(row.sequence) || plan.sequences[row.sequence].drafts <= pass + 1;
    });
  }
  return any;
}

void SelfDrafter::Gather(const StepPlan& plan) {
  rows_.clear();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    if (!s.own_drafts || s.drafts == 0 || pager_.IsLost(i)) continue;
    Row row{i, &*s.own_drafts, {}};
    for (int32_t l = shard_.layer_begin; l < shard_.layer_end; ++l) {
      const LayerId layer{l};
      if (row.plan->RunsAttention(layer, shard_.layer_end) && pager_.OnDevice(i, layer)) row.attends.Add(layer);
    }
    const auto alike = absl::c_find_if(
        rows_, [&](const Row& other) { return other.attends == row.attends && *other.plan == *row.plan; });
    rows_.insert(alike, row);
  }
}

template <typename Runs, typename Visit>
void SelfDrafter::EachRun(Runs runs, Visit visit) const {
  const auto count = static_cast<int64_t>(rows_.size());
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin;
    while (end < count && runs(rows_[end])) ++end;
    if (end > begin) visit(begin, end - begin);
    begin = end + 1;
  }
}

void SelfDrafter::Pass(const StepPlan& plan, int32_t pass, const Tensor& x) {
  tokens_.clear();
  positions_.clear();
  adapters_.clear();
  draft_rows_.clear();
  for (const Row& row : rows_) {
    const int32_t position = plan.sequences[row.sequence].start + pass;
    tokens_.push_back(pager_.sequence(row.sequence).tokens()[position]);
    positions_.push_back(position);
    adapters_.push_back(pager_.sequence(row.sequence).adapter.get());
    draft_rows_.push_back({row.sequence, position});
  }
  const StepInput all{tokens_, positions_, adapters_};
  arch_.Embed(all, x);
  for (int32_t l = shard_.layer_begin; l < shard_.layer_end; ++l) {
    const LayerId layer{l};
    EachRun([&](const Row& row) { return row.attends.Has(layer); },
            [&](int64_t begin, int64_t count) {
              DraftKv kv(pager_, absl::MakeConstSpan(draft_rows_).subspan(begin, count));
              arch_.Attention(layer, all.Rows(begin, count), kv, x.Rows(begin, count));
            });
    EachRun(
        [&](const Row& row) { return row.plan->RunsFeedForward(layer, shard_.layer_end); },
        [&](int64_t begin, int64_t count) { arch_.FeedForward(layer, all.Rows(begin, count), x.Rows(begin, count)); });
  }
}

void SelfDrafter::Guess(const StepPlan& plan, const Tensor& x, std::byte* logits) {
  std::vector<int32_t> rows(rows_.size());
  std::iota(rows.begin(), rows.end(), 0);
  guesses_.Make(plan, draft_rows_, rows, arch_, x, logits);
}

}  // namespace interlace
