#include "model/shard_spec.h"

#include <algorithm>

#include "common/check.h"

namespace interlace {

ShardSpec MakeShard(int32_t layers, int32_t stage, int32_t stages) {
  CHECK(stage >= 0 && stage < stages && stages <= layers);
  const auto begin = [&](int32_t s) { return layers / stages * s + std::min(s, layers % stages); };
  return {stage, stages, begin(stage), begin(stage + 1)};
}

}  // namespace interlace
