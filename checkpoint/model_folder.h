// ModelFolder: a model as Hugging Face lays it out: config.json beside safetensors, whole or in parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"

namespace interlace {

struct ModelFolder {
  HfConfig config;
  std::vector<std::unique_ptr<SafetensorsFile>> shards;  // in the order of their names
  std::string digest;                                    // of config.json and all shards
};

// InvalidArgument names file and field; NotFound a file that is missing.
absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& folder);

}  // namespace interlace
