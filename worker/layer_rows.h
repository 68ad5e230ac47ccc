// LayerRows: which rows of a step a sublayer is computed for.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_arch.h"
#include "proto/plan/step_plan.h"
#include "worker/layer_pager.h"

namespace interlace {

// Sequences of a plan that stand side by side and pass over the same sublayers are computed together; so a step of
// streams with a plan and streams without runs each sublayer once for those who need it, and the others keep their
// hidden states. A step in which nobody passes anything over is computed as one. Made for one step by ModelRunner,
// which outlives it, as the plan does; thread: runner.
class LayerRows {
 public:
  // `layers`: of the model.
  LayerRows(const StepPlan& plan, int32_t layers, ModelArch& arch, LayerPager& pager);
  void Attention(LayerId layer, const StepInput& in, const Tensor& x);
  void FeedForward(LayerId layer, const StepInput& in, const Tensor& x);

 private:
  struct Stretch {
    int64_t begin = 0, end = 0;      // rows of the step
    const SkipPlan* skip = nullptr;  // null: nothing is passed over
  };
  // Calls visit(begin, end, whether they run it) for rows side by side that all do or all do not.
  template <typename Runs, typename Visit>
  void Each(Runs runs, Visit visit) const;

  const int32_t layers_;
  ModelArch& arch_;
  LayerPager& pager_;
  std::vector<Stretch> stretches_;
};

}  // namespace interlace
