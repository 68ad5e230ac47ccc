// Bodies of /tokenize and /detokenize, as vLLM defines them; pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/generation.h"

namespace interlace {

// `prompt` or `messages`.
struct TokenizeQuery {
  std::string model;
  Prompt prompt;
  PromptForm form;
  bool token_texts = false;  // the answer has the text of each token too
};
absl::StatusOr<TokenizeQuery> ParseTokenize(absl::string_view body);

struct DetokenizeQuery {
  std::string model;
  std::vector<int32_t> tokens;
};
absl::StatusOr<DetokenizeQuery> ParseDetokenize(absl::string_view body);

}  // namespace interlace
