// What the coordinator knows of a model besides its text: the numbers that scheduling needs.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace interlace {

struct ModelFacts {
  std::string digest;   // as the ranks find it
  int32_t context = 0;  // tokens
  int32_t layers = 0;
};

// Of a GGUF file, or of a folder as Hugging Face writes one. NotFound if nothing is there; InvalidArgument names file
// and field.
absl::StatusOr<ModelFacts> ReadModelFacts(const std::string& path);

}  // namespace interlace
