#include "bench/study/skip_cost.h"

#include <algorithm>

namespace interlace {
namespace {

TokenCost Times(const TokenCost& cost, int32_t count) { return {cost.flops * count, cost.bytes * count}; }

TokenCost CostOfLayer(const LayerCost& layer, bool attention, bool feed_forward, int32_t context) {
  TokenCost cost{0, layer.row_bytes};
  if (attention) {
    cost += layer.attention;
    cost += Times(layer.pair, layer.window > 0 ? std::min(layer.window, context) : context);
  } else {
    cost += layer.kv;
  }
  if (feed_forward) cost += layer.feed_forward;
  return cost;
}

}  // namespace

TokenCost CostOfPlan(const ModelCost& model, const SkipPlan& plan, int32_t context) {
  const auto layers = static_cast<int32_t>(model.layers.size());
  TokenCost cost = model.head;
  for (int32_t l = 0; l < layers; ++l) {
    cost += CostOfLayer(model.layers[l], plan.RunsAttention(LayerId{l}, layers),
                        plan.RunsFeedForward(LayerId{l}, layers), context);
  }
  return cost;
}

TokenCost CostOfExit(const ModelCost& model, int32_t ran, int32_t looks, int32_t context) {
  const auto layers = static_cast<int32_t>(model.layers.size());
  TokenCost cost = Times(model.head, looks + (ran == layers ? 1 : 0));
  for (int32_t l = 0; l < layers; ++l) cost += CostOfLayer(model.layers[l], l < ran, l < ran, context);
  return cost;
}

}  // namespace interlace
