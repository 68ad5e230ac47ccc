#include "coordinator/front/responses_json.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/chat_history.h"
#include "coordinator/front/constraint_fields.h"
#include "coordinator/front/json_fields.h"
#include "coordinator/front/json_text.h"
#include "coordinator/front/request_fields.h"

namespace interlace {
namespace {

constexpr absl::string_view kTextParts[] = {"input_text", "output_text", "text"};

constexpr UnsupportedField kUnsupported[] = {
    {"background", "[false]"}, {"conversation", "[]"},           {"previous_response_id", "[]"}, {"prompt", "[]"},
    {"top_logprobs", "[0]"},   {"truncation", "[\"disabled\"]"}, {"max_tool_calls", "[]"},
};

// What an answer repeats of its request, and what stands there if the request does not say.
struct Echoed {
  const char* field;
  const char* usual;
};
constexpr Echoed kEchoed[] = {
    {"instructions", "null"},
    {"max_output_tokens", "null"},
    {"metadata", "{}"},
    {"parallel_tool_calls", "true"},
    {"temperature", "1.0"},
    {"top_p", "1.0"},
    {"tools", "[]"},
    {"tool_choice", "\"auto\""},
    {"text", "{\"format\":{\"type\":\"text\"}}"},
    {"reasoning", "{\"effort\":null,\"summary\":null}"},
};

const std::string* TextMember(const Json& json, const char* field) {
  const Json* value = json.is_object() ? Member(json, field) : nullptr;
  return value != nullptr && value->is_string() ? &value->get_ref<const std::string&>() : nullptr;
}

// Items become messages; calls and thought that belong to one turn of the assistant become one message.
class History {
 public:
  absl::Status Add(const Json& item, const std::string& where) {
    if (!item.is_object()) return BadField(where, "must be an object");
    RETURN_IF_ERROR(CheckTexts(item, {"type", "role"}, where));
    const std::string* type = TextMember(item, "type");
    if (type == nullptr || *type == "message") return AddMessage(item, where);
    if (*type == "function_call") return AddCall(item, where);
    if (*type == "function_call_output") return AddResult(item, where);
    if (*type == "reasoning") return AddThought(item);
    return BadField(where, absl::StrCat("an item of type ", Shown(Json(*type)), " is not supported here"));
  }
  void AddText(absl::string_view role, absl::string_view text) {
    EndTurn();
    MessageText message(role);
    message.Add("content", JsonString(text));
    messages_.push_back(std::move(message).Finish());
  }
  std::string Finish() && {
    EndTurn();
    return absl::StrCat("[", absl::StrJoin(messages_, ","), "]");
  }
  bool empty() const { return messages_.empty() && !turn_; }

 private:
  struct Turn {
    std::string text, thought;
    std::vector<const Json*> calls;
  };

  Turn& turn() { return turn_ ? *turn_ : turn_.emplace(); }

  void EndTurn() {
    if (!turn_) return;
    MessageText message("assistant");
    message.Add("content", JsonString(turn_->text));
    if (!turn_->thought.empty()) message.Add("reasoning_content", JsonString(turn_->thought));
    for (const Json* call : turn_->calls) {
      const std::string* arguments = TextMember(*call, "arguments");
      message.AddCall(*TextMember(*call, "call_id"), *TextMember(*call, "name"),
                      arguments == nullptr || arguments->empty() ? "{}" : *arguments);
    }
    messages_.push_back(std::move(message).Finish());
    turn_.reset();
  }

  absl::Status AddMessage(const Json& item, const std::string& where) {
    const std::string* role = TextMember(item, "role");
    const Json* content = item.is_object() ? Member(item, "content") : nullptr;
    if (role == nullptr || content == nullptr) return BadField(where, "needs a role and content");
    ASSIGN_OR_RETURN(const std::string text, ReadTextParts(*content, kTextParts, where));
    if (*role == "assistant") {
      if (turn_ && !turn_->calls.empty()) EndTurn();
      turn().text += text;
      return absl::OkStatus();
    }
    if (*role != "user" && *role != "system" && *role != "developer") {
      return BadField(where, "its role must be user, assistant, system or developer");
    }
    AddText(*role == "developer" ? "system" : *role, text);
    return absl::OkStatus();
  }

  absl::Status AddCall(const Json& item, const std::string& where) {
    if (TextMember(item, "call_id") == nullptr || TextMember(item, "name") == nullptr) {
      return BadField(where, "a function_call needs a call_id and a name");
    }
    RETURN_IF_ERROR(CheckTexts(item, {"arguments", "id"}, where));
    const std::string* arguments = TextMember(item, "arguments");
    if (arguments != nullptr && !arguments->empty()) RETURN_IF_ERROR(CheckArguments(*arguments, where));
    turn().calls.push_back(&item);
    return absl::OkStatus();
  }

  absl::Status AddResult(const Json& item, const std::string& where) {
    const std::string* id = TextMember(item, "call_id");
    const Json* output = Member(item, "output");
    if (id == nullptr || output == nullptr)
      return BadField(where, "a function_call_output needs a call_id and an output");
    ASSIGN_OR_RETURN(const std::string text, ReadTextParts(*output, kTextParts, where));
    EndTurn();
    MessageText message("tool");
    message.Add("content", JsonString(text));
    message.Add("tool_call_id", JsonString(*id));
    messages_.push_back(std::move(message).Finish());
    return absl::OkStatus();
  }

  absl::Status AddThought(const Json& item) {
    const Json* content = Member(item, "content");
    if (turn_ && !turn_->calls.empty()) EndTurn();
    for (size_t i = 0; content != nullptr && content->is_array() && i < content->size(); ++i) {
      if (const std::string* text = TextMember((*content)[i], "text")) turn().thought += *text;
    }
    return absl::OkStatus();
  }

  std::vector<std::string> messages_;
  std::optional<Turn> turn_;
};

absl::Status ReadInput(const Json& json, ChatInput* chat) {
  History history;
  std::string instructions;
  RETURN_IF_ERROR(Read(json, "instructions", &instructions));
  if (!instructions.empty()) history.AddText("system", instructions);
  const Json* input = Member(json, "input");
  if (input == nullptr) return BadField("input", "is missing");
  if (input->is_string()) {
    history.AddText("user", input->get_ref<const std::string&>());
  } else if (!input->is_array() || input->empty()) {
    return BadField("input", "must be a string or a list of items");
  }
  for (size_t i = 0; input->is_array() && i < input->size(); ++i) {
    RETURN_IF_ERROR(history.Add((*input)[i], absl::StrCat("input[", i, "]")));
  }
  if (history.empty()) return BadField("input", "holds no message");
  chat->messages = std::move(history).Finish();
  return absl::OkStatus();
}

absl::Status ReadTools(const Json& json, ChatInput* chat, std::vector<std::string>* names) {
  const Json* tools = Member(json, "tools");
  if (tools == nullptr) return absl::OkStatus();
  if (!tools->is_array()) return BadField("tools", "must be a list");
  std::vector<std::string> out;
  for (const Json& tool : *tools) {
    const std::string* type = TextMember(tool, "type");
    const std::string* name = TextMember(tool, "name");
    if (type == nullptr || *type != "function" || name == nullptr || name->empty()) {
      return BadField("tools", "only tools {\"type\": \"function\", \"name\": ...} are supported");
    }
    RETURN_IF_ERROR(CheckTexts(tool, {"description"}, "tools"));
    const Json* parameters = Member(tool, "parameters");
    if (parameters != nullptr && !parameters->is_object()) return BadField("tools", "parameters must be a JSON schema");
    const std::string* description = TextMember(tool, "description");
    out.push_back(absl::StrCat(R"({"type":"function","function":{"name":)", JsonString(*name), R"(,"description":)",
                               JsonString(description == nullptr ? "" : *description), R"(,"parameters":)",
                               parameters == nullptr ? "{}" : Printed(*parameters), "}}"));
    names->push_back(*name);
  }
  if (!out.empty()) chat->tools = absl::StrCat("[", absl::StrJoin(out, ","), "]");
  return absl::OkStatus();
}

absl::Status ReadTextFormat(const Json& json, absl::string_view body, GenerationSpec* spec) {
  const Json* text = Member(json, "text");
  if (text == nullptr) return absl::OkStatus();
  if (!text->is_object()) return BadField("text", "must be an object");
  if (Member(*text, "format") == nullptr) return absl::OkStatus();
  return ReadFormat(RawMember(RawMember(body, "text"), "format"), "text.format", spec);
}

std::string EchoedOf(const Json& json) {
  std::string out = "{";
  for (const Echoed& row : kEchoed) {
    const Json* value = Member(json, row.field);
    absl::StrAppend(&out, out.size() > 1 ? "," : "", "\"", row.field,
                    "\":", value == nullptr ? row.usual : Printed(*value));
  }
  return absl::StrCat(out, "}");
}

}  // namespace

absl::StatusOr<ApiRequest> ParseResponses(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ApiRequest request;
  request.protocol = Protocol::kResponses;
  GenerationSpec& spec = request.spec;
  RETURN_IF_ERROR(RefuseUnsupported(json, kUnsupported));
  RETURN_IF_ERROR(ReadOneChoice(json, body, &spec));
  RETURN_IF_ERROR(Read(json, "max_output_tokens", &spec.max_tokens));
  RETURN_IF_ERROR(Read(json, "stream", &request.stream));
  RETURN_IF_ERROR(Read(json, "parallel_tool_calls", &spec.parallel_tool_calls));
  RETURN_IF_ERROR(ReadTextFormat(json, body, &spec));
  ChatInput chat;
  RETURN_IF_ERROR(ReadInput(json, &chat));
  RETURN_IF_ERROR(ReadTools(json, &chat, &spec.tools));
  RETURN_IF_ERROR(ReadToolChoice(json, &spec.tools, &chat.tools, &spec.forced_call));
  if (spec.max_tokens.value_or(1) < 1) return BadField("max_output_tokens", "must be at least 1");
  spec.prompts.emplace_back(std::move(chat));
  request.echoed = EchoedOf(json);
  return request;
}

}  // namespace interlace
