// LayerResidencyPlan: which layers of a request's KV stay in device memory.
#pragma once

#include <cstdint>
#include <string>

#include "common/ids.h"

namespace interlace {

// Layer j of L is kept iff floor((j+1)x/L) > floor(jx/L): x layers, evenly interleaved (L=8, x=4 keeps 1,3,5,7).
// Source: LayerKV, arXiv 2410.00428.
constexpr bool KeepsLayer(int32_t layer, int32_t keep, int32_t layers) {
  return int64_t{layer + 1} * keep / layers > int64_t{layer} * keep / layers;
}

// kKeep: all blocks stay on the device. kStream: sealed (full) blocks live below the device, are fetched for the
// layer's turn and dropped after it; the unfinished last block stays on the device until it is sealed and written back.
enum class LayerMode : uint8_t { kKeep, kStream };

// A value: per request, part of a StepPlan. Positions beyond what it says change nothing: the rank moves blocks as soon
// as the plan arrives (kKeep -> kStream writes back, kStream -> kKeep fetches once and stays).
struct LayerResidencyPlan {
  int32_t layers = 0;  // of the model
  int32_t keep = 0;    // x, 0 <= keep <= layers
  LayerMode ModeOf(LayerId layer) const {
    return KeepsLayer(Value(layer), keep, layers) ? LayerMode::kKeep : LayerMode::kStream;
  }
  // Kept layers in [begin, end).
  int32_t KeptIn(int32_t begin, int32_t end) const;
  std::string ToString() const;  // "15/30 kept"
  friend bool operator==(const LayerResidencyPlan&, const LayerResidencyPlan&) = default;
};

}  // namespace interlace
