#include "coordinator/front/chat_history.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_text.h"

namespace interlace {
namespace {

constexpr absl::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool", "function"};
constexpr absl::string_view kTextParts[] = {"text"};
constexpr int kDeepestArguments = 32;
constexpr size_t kMostTools = 512;
constexpr size_t kLongestToolName = 256;  // bytes

// Texts of a message besides its content that templates read.
constexpr const char* kTexts[] = {"name", "tool_call_id", "reasoning_content", "reasoning", "thinking"};

// An object of JSON, and nothing that could not be printed into a larger one.
bool IsObject(absl::string_view text) {
  const absl::string_view begin = absl::StripLeadingAsciiWhitespace(text);
  return !begin.empty() && begin[0] == '{' && !NestsDeeper(text, kDeepestArguments) &&
         Json::accept(text.begin(), text.end());
}

absl::Status ReadCall(const Json& call, absl::string_view where, MessageText* message) {
  const Json* function = call.is_object() ? Member(call, "function") : nullptr;
  const Json* name = function != nullptr && function->is_object() ? Member(*function, "name") : nullptr;
  if (name == nullptr || !name->is_string()) return BadField(where, "a tool call needs a function with a name");
  const Json* id = Member(call, "id");
  if (id != nullptr && !id->is_string()) return BadField(where, "the id of a tool call must be a string");
  const Json* arguments = Member(*function, "arguments");
  std::string text = arguments == nullptr     ? "{}"
                     : arguments->is_string() ? arguments->get<std::string>()
                                              : Printed(*arguments);
  if (absl::StripAsciiWhitespace(text).empty()) text = "{}";
  RETURN_IF_ERROR(CheckArguments(text, absl::StrCat(where, ".tool_calls")));
  message->AddCall(id == nullptr ? "" : id->get<std::string>(), name->get<std::string>(), text);
  return absl::OkStatus();
}

absl::Status ReadCalls(const Json& item, absl::string_view where, MessageText* message) {
  const Json* calls = Member(item, "tool_calls");
  if (calls == nullptr) return absl::OkStatus();
  if (!calls->is_array()) return BadField(where, "tool_calls must be a list");
  for (const Json& call : *calls) RETURN_IF_ERROR(ReadCall(call, where, message));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadMessage(const Json& item, const std::string& where) {
  if (!item.is_object()) return BadField(where, "must be an object");
  const Json* role = Member(item, "role");
  if (role == nullptr || !role->is_string()) return BadField(where, "has no role");
  const std::string& name = role->get_ref<const std::string&>();
  if (std::find(std::begin(kRoles), std::end(kRoles), name) == std::end(kRoles)) {
    return BadField("messages", absl::StrCat("role ", Shown(*role), " is none of ", absl::StrJoin(kRoles, ", ")));
  }
  for (const char* field : {"function_call", "audio"}) {
    const Json* value = Member(item, field);
    if (value != nullptr && !value->empty()) return BadField(where, absl::StrCat(field, " is not supported here"));
  }
  RETURN_IF_ERROR(CheckTexts(item, {"name", "tool_call_id"}, where));
  MessageText message(name == "developer" ? "system" : name);  // its newer name
  const Json* content = Member(item, "content");
  if (content == nullptr && name != "assistant") return BadField(where, "has no content");
  std::string text;
  if (content != nullptr) {
    ASSIGN_OR_RETURN(text, ReadTextParts(*content, kTextParts, where));
  }
  message.Add("content", JsonString(text));
  for (const char* field : kTexts) {
    const Json* value = Member(item, field);
    if (value != nullptr && value->is_string()) message.Add(field, Printed(*value));
  }
  RETURN_IF_ERROR(ReadCalls(item, where, &message));
  return std::move(message).Finish();
}

absl::Status ReadTools(const Json& json, absl::string_view body, ChatHistory* history) {
  const Json* tools = Member(json, "tools");
  if (tools == nullptr) return absl::OkStatus();
  if (!tools->is_array()) return BadField("tools", "must be a list");
  if (tools->size() > kMostTools) return BadField("tools", absl::StrCat("holds more than ", kMostTools, " tools"));
  for (const Json& tool : *tools) {
    const Json* type = tool.is_object() ? Member(tool, "type") : nullptr;
    const Json* function = tool.is_object() ? Member(tool, "function") : nullptr;
    if (type == nullptr || *type != "function" || function == nullptr || !function->is_object()) {
      return BadField("tools", "only tools {\"type\": \"function\", \"function\": {...}} are supported");
    }
    const Json* name = Member(*function, "name");
    if (name == nullptr || !name->is_string() || name->get_ref<const std::string&>().empty() ||
        name->get_ref<const std::string&>().size() > kLongestToolName) {
      return BadField("tools", absl::StrCat("the name of a function must have 1 to ", kLongestToolName, " bytes"));
    }
    const Json* parameters = Member(*function, "parameters");
    if (parameters != nullptr && !parameters->is_object()) {
      return BadField("tools", absl::StrCat("parameters of ", Shown(*name), " must be a JSON schema, an object"));
    }
    history->tools.push_back(name->get<std::string>());
  }
  if (tools->empty()) return absl::OkStatus();
  const absl::string_view raw = RawMember(body, "tools");
  history->input.tools = raw.empty() ? Printed(*tools) : std::string(raw);
  return absl::OkStatus();
}

absl::Status ReadPromptEnd(const Json& json, ChatInput* input) {
  RETURN_IF_ERROR(Read(json, "continue_final_message", &input->continue_final_message));
  input->add_generation_prompt = !input->continue_final_message;
  RETURN_IF_ERROR(Read(json, "add_generation_prompt", &input->add_generation_prompt));
  if (input->continue_final_message && input->add_generation_prompt) {
    return BadField("continue_final_message", "not together with add_generation_prompt");
  }
  return absl::OkStatus();
}

}  // namespace

std::string JsonString(absl::string_view text) { return Printed(Json(std::string(text))); }

absl::StatusOr<std::string> ReadTextParts(const Json& content, absl::Span<const absl::string_view> types,
                                          absl::string_view where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return BadField(where, "content must be a string or a list of parts");
  std::string text;
  for (const Json& part : content) {
    const Json* type = part.is_object() ? Member(part, "type") : nullptr;
    const Json* words = part.is_object() ? Member(part, "text") : nullptr;
    const bool known = type != nullptr && type->is_string() && words != nullptr && words->is_string() &&
                       std::find(types.begin(), types.end(), type->get_ref<const std::string&>()) != types.end();
    if (!known) {
      return BadField(where,
                      absl::StrCat("only content parts {\"type\": \"", types[0], "\", \"text\": ...} are supported"));
    }
    text += words->get_ref<const std::string&>();
  }
  return text;
}

absl::Status CheckTexts(const Json& json, std::initializer_list<const char*> fields, absl::string_view where) {
  for (const char* field : fields) {
    const Json* value = Member(json, field);
    if (value != nullptr && !value->is_string()) {
      return BadField(where, absl::StrCat(field, " must be a string, not ", Shown(*value)));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckArguments(absl::string_view arguments, absl::string_view where) {
  if (IsObject(arguments)) return absl::OkStatus();
  return BadField(where, absl::StrCat("the arguments of a call must be a JSON object, not ",
                                      Shown(Json(std::string(arguments.substr(0, 80))))));
}

MessageText::MessageText(absl::string_view role) : text_(absl::StrCat("{\"role\":", JsonString(role))) {}

void MessageText::Add(absl::string_view name, absl::string_view json) {
  absl::StrAppend(&text_, ",\"", name, "\":", json);
}

void MessageText::AddCall(absl::string_view id, absl::string_view name, absl::string_view arguments) {
  absl::StrAppend(&calls_, calls_.empty() ? "" : ",", "{");
  if (!id.empty()) absl::StrAppend(&calls_, "\"id\":", JsonString(id), ",");
  absl::StrAppend(&calls_, "\"type\":\"function\",\"function\":{\"name\":", JsonString(name),
                  ",\"arguments\":", arguments, "}}");
}

std::string MessageText::Finish() && {
  if (!calls_.empty()) Add("tool_calls", absl::StrCat("[", calls_, "]"));
  return absl::StrCat(text_, "}");
}

absl::Status ForceCall(const std::string& name, const std::vector<std::string>& tools,
                       std::optional<ForcedCall>* forced) {
  if (tools.empty()) return BadField("tool_choice", "asks for a call, and the request has no tools");
  if (!name.empty() && std::find(tools.begin(), tools.end(), name) == tools.end()) {
    return BadField("tool_choice", absl::StrCat(Shown(Json(name)), " is none of the tools"));
  }
  *forced = ForcedCall{name};
  return absl::OkStatus();
}

absl::Status ReadToolChoice(const Json& json, std::vector<std::string>* names, std::string* shown,
                            std::optional<ForcedCall>* forced) {
  const Json* choice = Member(json, "tool_choice");
  if (choice == nullptr || *choice == "auto") return absl::OkStatus();
  if (*choice == "required") return ForceCall("", *names, forced);
  if (choice->is_object()) {  // {"type": "function", "function": {"name": ...}}, of Responses without the inner object
    const Json* type = Member(*choice, "type");
    const Json* function = Member(*choice, "function");
    const Json& named = function != nullptr && function->is_object() ? *function : *choice;
    const Json* name = Member(named, "name");
    if (type != nullptr && *type == "function" && name != nullptr && name->is_string() && *name != "") {
      return ForceCall(name->get<std::string>(), *names, forced);
    }
  }
  if (*choice != "none") {
    return BadField("tool_choice", absl::StrCat(Shown(*choice),
                                                " is none of \"auto\", \"none\", \"required\" and "
                                                "{\"type\": \"function\", \"function\": "
                                                "{\"name\": ...}}"));
  }
  names->clear();
  shown->clear();
  return absl::OkStatus();
}

absl::StatusOr<ChatHistory> ReadChatHistory(const Json& json, absl::string_view body) {
  const Json* list = Member(json, "messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return BadField("messages", "must be a list with at least one message");
  }
  ChatHistory history;
  std::vector<std::string> messages;
  for (const Json& item : *list) {
    ASSIGN_OR_RETURN(std::string message, ReadMessage(item, absl::StrCat("messages[", messages.size(), "]")));
    messages.push_back(std::move(message));
  }
  history.input.messages = absl::StrCat("[", absl::StrJoin(messages, ","), "]");
  RETURN_IF_ERROR(ReadTools(json, body, &history));
  RETURN_IF_ERROR(ReadToolChoice(json, &history.tools, &history.input.tools, &history.forced_call));
  RETURN_IF_ERROR(ReadPromptEnd(json, &history.input));
  if (const Json* variables = Member(json, "chat_template_kwargs")) {
    if (!variables->is_object()) return BadField("chat_template_kwargs", "must be an object");
    if (!variables->empty()) history.input.variables = Printed(*variables);
  }
  return history;
}

}  // namespace interlace
