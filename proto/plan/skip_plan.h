// SkipPlan: the sublayers of a model that a draft, or a step of a bounded stream, passes over.
#pragma once

#include <cstdint>

#include "kvstore/layer_set.h"

namespace interlace {

// A layer is two sublayers: attention, then a feed-forward part (experts included). What a plan passes over leaves the
// hidden state as it is. The first and the last layer always run, whatever the sets say. A value, part of plans.
struct SkipPlan {
  LayerSet attention;     // layers whose attention is passed over
  LayerSet feed_forward;  // likewise

  // `layers`: of the model.
  bool RunsAttention(LayerId layer, int32_t layers) const { return IsEnd(layer, layers) || !attention.Has(layer); }
  bool RunsFeedForward(LayerId layer, int32_t layers) const { return IsEnd(layer, layers) || !feed_forward.Has(layer); }
  // Sublayers that are passed over.
  int32_t Passed(int32_t layers) const {
    int32_t count = 0;
    for (int32_t l = 0; l < layers; ++l) {
      count += (RunsAttention(LayerId{l}, layers) ? 0 : 1) + (RunsFeedForward(LayerId{l}, layers) ? 0 : 1);
    }
    return count;
  }

  // `count` sublayers spread evenly over those between the first and the last layer (SWIFT, arXiv 2410.06916, starts
  // its search so).
  static SkipPlan Evenly(int32_t count, int32_t layers) {
    SkipPlan plan;
    const int32_t inner = 2 * (layers - 2);
    for (int32_t s = 0; s < inner; ++s) {
      if (int64_t{s + 1} * count / inner == int64_t{s} * count / inner) continue;
      (s % 2 == 0 ? plan.attention : plan.feed_forward).Add(LayerId{1 + s / 2});
    }
    return plan;
  }
  // Early exit: of layers exit, exit + 1, .. but the last nothing runs, so that behind the first `exit` layers the last
  // one makes what the head reads. Of 30 layers, After(20, 30) passes over the 18 sublayers of layers 20 to 28.
  static SkipPlan After(int32_t exit, int32_t layers) {
    SkipPlan plan;
    for (int32_t l = exit; l + 1 < layers; ++l) {
      plan.attention.Add(LayerId{l});
      plan.feed_forward.Add(LayerId{l});
    }
    return plan;
  }
  friend bool operator==(const SkipPlan&, const SkipPlan&) = default;

 private:
  static bool IsEnd(LayerId layer, int32_t layers) { return Value(layer) == 0 || Value(layer) + 1 == layers; }
};

}  // namespace interlace
