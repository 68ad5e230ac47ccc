// ShardSpec: which part of a model a rank holds; pure arithmetic.
#pragma once

#include <cstdint>

#include "common/ids.h"

namespace interlace {

struct ShardSpec {
  int32_t stage = 0;
  int32_t stages = 1;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;  // one past
  bool first() const { return stage == 0; }
  bool last() const { return stage + 1 == stages; }
  int32_t layers() const { return layer_end - layer_begin; }
};

// Consecutive layers, as even as can be, earlier stages the larger. Requires: 0 <= stage < stages <= layers.
ShardSpec MakeShard(int32_t layers, int32_t stage, int32_t stages);

}  // namespace interlace
