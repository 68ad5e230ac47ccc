// Fields of HTTP bodies by which clients constrain answers; pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/json_fields.h"

namespace interlace {

// OpenAI's response_format; vLLM's structured_outputs and, as they were called before, guided_json, guided_regex,
// guided_choice and guided_grammar; llama.cpp's and SGLang's json_schema, grammar, ebnf, regex and structural_tag. And
// allowed_token_ids. `json` is `body`, parsed. InvalidArgument names the field; so it does where two of them constrain.
absl::Status ReadConstraint(const Json& json, absl::string_view body, GenerationSpec* spec);

// A format of the Responses protocol (text.format) or of the Messages protocol (output_config.format), as written in
// the body: {"type": "json_schema", "schema": {...}}, json_object or text.
absl::Status ReadFormat(absl::string_view format, absl::string_view field, GenerationSpec* spec);

// As a grammar that is one of these texts; of none, a grammar that no compiler takes.
Constraint OneOfTexts(absl::Span<const std::string> texts);
// EBNF or Lark's syntax, told apart by the sign that only EBNF has.
Constraint GrammarConstraint(std::string text);

}  // namespace interlace
