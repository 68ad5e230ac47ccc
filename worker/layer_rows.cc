#include "worker/layer_rows.h"

namespace interlace {
namespace {

// What the cache is to some rows of a step.
class RowsKv final : public LayerKv {
 public:
  RowsKv(LayerPager& pager, int64_t begin) : pager_(pager), begin_(begin) {}
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    pager_.AttendRows(layer, begin_, q, {{begin_, k, v}}, out);
  }

 private:
  LayerPager& pager_;
  const int64_t begin_;
};

bool Alike(const SkipPlan* a, const PlanSequence& b) {
  return a == nullptr ? !b.skip.has_value() : b.skip.has_value() && *a == *b.skip;
}

}  // namespace

LayerRows::LayerRows(const StepPlan& plan, int32_t layers, ModelArch& arch, LayerPager& pager)
    : layers_(layers), arch_(arch), pager_(pager) {
  int64_t row = 0;
  for (const PlanSequence& s : plan.sequences) {
    const auto rows = static_cast<int64_t>(s.tokens.size());
    if (stretches_.empty() || !Alike(stretches_.back().skip, s)) {
      stretches_.push_back({row, row, s.skip ? &*s.skip : nullptr});
    }
    row += rows;
    stretches_.back().end = row;
  }
}

template <typename Runs, typename Visit>
void LayerRows::Each(Runs runs, Visit visit) const {
  const auto run = [&](const Stretch& s) { return s.skip == nullptr || runs(*s.skip); };
  for (size_t i = 0; i < stretches_.size();) {
    const bool first = run(stretches_[i]);
    size_t end = i + 1;
    while (end < stretches_.size() && run(stretches_[end]) == first) ++end;
    visit(stretches_[i].begin, stretches_[end - 1].end, first);
    i = end;
  }
}

void LayerRows::Attention(LayerId layer, const StepInput& in, const Tensor& x) {
  Each([&](const SkipPlan& skip) { return skip.RunsAttention(layer, layers_); },
       [&](int64_t begin, int64_t end, bool runs) {
         RowsKv kv(pager_, begin);
         const StepInput rows = in.Rows(begin, end - begin);
         if (runs) {
           arch_.Attention(layer, rows, kv, x.Rows(begin, end - begin));
         } else {
           arch_.KeysAndValues(layer, rows, kv, x.Rows(begin, end - begin));
         }
       });
}

void LayerRows::FeedForward(LayerId layer, const StepInput& in, const Tensor& x) {
  Each([&](const SkipPlan& skip) { return skip.RunsFeedForward(layer, layers_); },
       [&](int64_t begin, int64_t end, bool runs) {
         if (runs) arch_.FeedForward(layer, in.Rows(begin, end - begin), x.Rows(begin, end - begin));
       });
}

}  // namespace interlace
