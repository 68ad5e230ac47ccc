// What a token costs that passes over parts of a model: operations and bytes, by arithmetic. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "proto/plan/skip_plan.h"

namespace interlace {

// A multiplication and an addition are two operations; what norms, rotation and activations take is left out.
struct TokenCost {
  double flops = 0;
  double bytes = 0;  // of weights and KV, read or written: what a step of one stream moves
  TokenCost& operator+=(const TokenCost& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

struct LayerCost {
  TokenCost attention;     // its matrices, K's and V's among them
  TokenCost kv;            // K's and V's alone: what is left of an attention that is passed over
  TokenCost feed_forward;  // of routed experts, the router and those of one token
  TokenCost pair;          // of a position that a row attends to: its K and V are read
  double row_bytes = 0;    // of K and V of a position, written
  int32_t window = 0;      // positions that a row sees; 0: all
};

struct ModelCost {
  std::vector<LayerCost> layers;
  TokenCost head;
};

// Of one row that attends to `context` positions, itself among them. Of an attention that is passed over K and V are
// made all the same (docs/decisions/bounded.md).
TokenCost CostOfPlan(const ModelCost& model, const SkipPlan& plan, int32_t context);
// Of a row that ran the first `ran` layers and `looks` times asked the head how sure the model is; of the other layers
// its K and V are made. A row that ran all of them goes through the head once more; of any other, the last look gave
// the token.
TokenCost CostOfExit(const ModelCost& model, int32_t ran, int32_t looks, int32_t context);

}  // namespace interlace
