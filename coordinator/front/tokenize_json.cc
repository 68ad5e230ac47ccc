#include "coordinator/front/tokenize_json.h"

#include <utility>

#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/chat_history.h"
#include "coordinator/front/json_fields.h"

namespace interlace {

// In a prompt, control tokens are read as in /v1/completions.
absl::StatusOr<TokenizeQuery> ParseTokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  TokenizeQuery query;
  query.form.parse_special = true;
  RETURN_IF_ERROR(Read(json, "model", &query.model));
  RETURN_IF_ERROR(Read(json, "parse_special", &query.form.parse_special));
  RETURN_IF_ERROR(Read(json, "add_special_tokens", &query.form.add_special_tokens));
  RETURN_IF_ERROR(Read(json, "return_token_strs", &query.token_texts));
  RETURN_IF_ERROR(Read(json, "chat_template", &query.form.chat_template));
  if (Member(json, "messages") != nullptr) {
    ASSIGN_OR_RETURN(ChatHistory history, ReadChatHistory(json, body));
    query.prompt = std::move(history.input);
    return query;
  }
  std::string text;
  if (Member(json, "prompt") == nullptr) return BadField("prompt", "is missing");
  RETURN_IF_ERROR(Read(json, "prompt", &text));
  query.prompt = std::move(text);
  return query;
}

absl::StatusOr<DetokenizeQuery> ParseDetokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  DetokenizeQuery query;
  RETURN_IF_ERROR(Read(json, "model", &query.model));
  const Json* tokens = Member(json, "tokens");
  if (tokens == nullptr) return BadField("tokens", "is missing");
  ASSIGN_OR_RETURN(query.tokens, ReadIds(*tokens, "tokens"));
  return query;
}

}  // namespace interlace
