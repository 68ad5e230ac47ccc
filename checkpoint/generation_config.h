// GenerationDefaults: what generation_config.json of a Hugging Face model folder says about producing text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// A value. What the file leaves out is nullopt: the door that receives a request has a default of its own.
struct GenerationDefaults {
  std::vector<int32_t> end_tokens;  // eos_token_id: one, or a list
  std::optional<bool> do_sample;    // false: greedy
  std::optional<double> temperature, top_p, min_p, typical_p, repetition_penalty;
  std::optional<int64_t> top_k;
};

// `json`: the file's contents, empty if there is no such file. InvalidArgument names `name` and the key that has another
// type or is out of range.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view json, const std::string& name);

}  // namespace interlace
