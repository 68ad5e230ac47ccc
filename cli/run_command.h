// interlace run: one prompt on one process, no network.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "common/config.h"
#include "coordinator/front/sampling_spec.h"

namespace interlace {

struct RunOptions {
  std::string prompt;
  bool raw = false;  // no chat template
  int32_t max_tokens = 128;
  SamplingSpec sampling;  // greedy unless it says otherwise
  std::string lora;       // folder of an adapter that answers; empty: the model as it is
  bool ids = false;       // print token ids instead of text
  bool explain = false;   // print the table of layers afterwards
};

absl::Status RunCommand(const Config& config, const RunOptions& options);

}  // namespace interlace
