// Explanation: what happened to one request, layer by layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/request.h"

namespace interlace {

struct LayerExplanation {
  int32_t stage = 0;
  bool kept = false;
  int32_t blocks_device = 0;  // sealed blocks, now
  int32_t blocks_host = 0;
  int64_t bytes_in = 0;  // over the request's life, towards the device
  int64_t bytes_out = 0;
  int64_t stall_us = 0;
};

struct Explanation {
  std::string name;
  std::string state;  // waiting, fetching, running, parked, finished, failed
  RequestEnd end;     // as far as it is known
  Targets targets;
  absl::Duration deadline = absl::InfiniteDuration();  // from its arrival
  int32_t keep_layers = 0;
  int32_t steps = 0;
  int32_t recomputes = 0;
  int32_t recomputed_tokens = 0;
  int32_t preemptions = 0;
  std::vector<LayerExplanation> layers;  // one for each layer of the model
  std::vector<std::string> notes;        // why it was lowered, rolled back, preempted, failed; bounded
};

}  // namespace interlace
