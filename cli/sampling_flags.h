// SamplingFlags: the flags of the tool that say how tokens are chosen.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "coordinator/front/sampling_spec.h"

namespace CLI {
class App;
}

namespace interlace {

// Filled by the command line; unset: the default of whoever samples.
struct SamplingFlags {
  SamplingSpec spec;
  std::vector<std::string> biases;  // "id:bias"

  void AddTo(CLI::App* command);
  // InvalidArgument names the flag that cannot be read.
  absl::Status Finish();
};

// The fields that a client may set, over what `options` has.
void SetSampling(const SamplingSpec& spec, ClientOptions* options);

}  // namespace interlace
