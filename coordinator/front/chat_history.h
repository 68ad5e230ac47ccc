// Messages and tools of OpenAI's chat bodies, checked and written as chat templates take them; pure functions.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/constraint_spec.h"
#include "coordinator/front/json_fields.h"
#include "text/chat_template.h"

namespace interlace {

struct ChatHistory {
  ChatInput input;
  std::vector<std::string> tools;         // names of those in the input
  std::optional<ForcedCall> forced_call;  // of one of them
};

// `json` is `body`, parsed. Fields messages, tools, tool_choice, chat_template_kwargs, add_generation_prompt and
// continue_final_message. InvalidArgument names the field at fault.
absl::StatusOr<ChatHistory> ReadChatHistory(const Json& json, absl::string_view body);

// tool_choice of OpenAI's protocols: "auto"; "none", which takes the tools away: what a model is not shown it does not
// call; "required", and a named function, which force a call. `names` of the tools, and `shown`, their JSON.
absl::Status ReadToolChoice(const Json& json, std::vector<std::string>* names, std::string* shown,
                            std::optional<ForcedCall>* forced);
// Of a choice that forces a call. `name` empty: of any tool.
absl::Status ForceCall(const std::string& name, const std::vector<std::string>& tools,
                       std::optional<ForcedCall>* forced);

// "text", or [{"type": TYPE, "text": "..."}, ...] with one of these types, without what stands between the parts.
// `where` names the value in a refusal.
absl::StatusOr<std::string> ReadTextParts(const Json& content, absl::Span<const absl::string_view> types,
                                          absl::string_view where);

// InvalidArgument: one of these members of `json` is there and is no text.
absl::Status CheckTexts(const Json& json, std::initializer_list<const char*> fields, absl::string_view where);
// InvalidArgument: the arguments of a call in a history are no JSON object, or nest too deep to stand in a larger one.
absl::Status CheckArguments(absl::string_view arguments, absl::string_view where);

// One message as a template reads it. Pieces of JSON are written as they are.
class MessageText {
 public:
  explicit MessageText(absl::string_view role);
  void Add(absl::string_view name, absl::string_view json);
  // `arguments`: JSON, as CheckArguments wants it.
  void AddCall(absl::string_view id, absl::string_view name, absl::string_view arguments);
  std::string Finish() &&;

 private:
  std::string text_;
  std::string calls_;
};

// The JSON of a text.
std::string JsonString(absl::string_view text);

}  // namespace interlace
