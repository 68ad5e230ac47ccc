// OpenAI's request bodies, parsed; pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/generation.h"

namespace interlace {

// A body of /v1/chat/completions or /v1/completions.
struct OpenAiRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  GenerationSpec spec;
};

// InvalidArgument names the field. A field that is understood and cannot be honoured is refused unless it has the value
// that changes nothing; unknown fields are ignored.
absl::StatusOr<OpenAiRequest> ParseChat(absl::string_view body);
absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body);

// A body of /tokenize: `prompt` or `messages`.
struct TokenizeQuery {
  Prompt prompt;
  bool parse_special = false;  // text such as <|im_start|> becomes its control token; `prompt` only
  bool add_generation_prompt = true;
};
absl::StatusOr<TokenizeQuery> ParseTokenize(absl::string_view body);
absl::StatusOr<std::vector<int32_t>> ParseDetokenize(absl::string_view body);

}  // namespace interlace
