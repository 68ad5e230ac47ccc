// What a token costs in each part of a model, by the shapes of its matrices.
#pragma once

#include <cstdint>

#include "bench/study/skip_cost.h"
#include "model/checkpoint.h"

namespace interlace {

// `kv_bytes`: K and V of one position in one layer. Of routed experts, those of one token (ExpertSpec::top_k); bytes
// are the checkpoint's own. Norms and the embedding's row count as nothing.
ModelCost CostOfModel(const Checkpoint& checkpoint, int64_t kv_bytes);

}  // namespace interlace
