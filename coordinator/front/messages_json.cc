#include "coordinator/front/messages_json.h"

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

constexpr absl::string_view kTextParts[] = {"text"};

constexpr UnsupportedField kUnsupported[] = {{"container", "[]"}, {"mcp_servers", "[[]]"}};

const std::string* TextMember(const Json& json, const char* field) {
  const Json* value = json.is_object() ? Member(json, field) : nullptr;
  return value != nullptr && value->is_string() ? &value->get_ref<const std::string&>() : nullptr;
}

// What the blocks of one message are to a chat template: results of tools are messages of their own, and come first.
struct Blocks {
  std::vector<std::string> results;
  std::string text, thought;
  std::vector<const Json*> calls;
};

absl::Status ReadResult(const Json& block, const std::string& where, Blocks* out) {
  const std::string* id = TextMember(block, "tool_use_id");
  if (id == nullptr) return BadField(where, "a tool_result needs a tool_use_id");
  std::string text;
  if (const Json* content = Member(block, "content")) {
    ASSIGN_OR_RETURN(text, ReadTextParts(*content, kTextParts, where));
  }
  MessageText message("tool");
  message.Add("content", JsonString(text));
  message.Add("tool_call_id", JsonString(*id));
  out->results.push_back(std::move(message).Finish());
  return absl::OkStatus();
}

absl::Status ReadBlock(const Json& block, bool assistant, const std::string& where, Blocks* out) {
  const std::string* type = TextMember(block, "type");
  if (type == nullptr) return BadField(where, "a content block needs a type");
  if (const std::string* text = TextMember(block, "text"); *type == "text" && text != nullptr) {
    out->text += *text;
    return absl::OkStatus();
  }
  if (!assistant && *type == "tool_result") return ReadResult(block, where, out);
  if (assistant && *type == "tool_use" && TextMember(block, "name") != nullptr) {
    RETURN_IF_ERROR(CheckTexts(block, {"id"}, where));
    if (const Json* input = Member(block, "input")) RETURN_IF_ERROR(CheckArguments(Printed(*input), where));
    out->calls.push_back(&block);
    return absl::OkStatus();
  }
  if (assistant && *type == "thinking") {
    if (const std::string* thought = TextMember(block, "thinking")) out->thought += *thought;
    return absl::OkStatus();
  }
  if (assistant && *type == "redacted_thinking") return absl::OkStatus();  // for its maker alone
  return BadField(where, absl::StrCat("a content block of type ", Shown(Json(*type)), " is not supported here"));
}

absl::Status ReadMessage(const Json& item, const std::string& where, std::vector<std::string>* out) {
  const std::string* role = TextMember(item, "role");
  if (role == nullptr || (*role != "user" && *role != "assistant")) {
    return BadField(where, "its role must be user or assistant");
  }
  const bool assistant = *role == "assistant";
  const Json* content = Member(item, "content");
  if (content == nullptr || !(content->is_string() || content->is_array())) {
    return BadField(where, "content must be a string or a list of blocks");
  }
  Blocks blocks;
  if (content->is_string()) blocks.text = content->get<std::string>();
  for (size_t i = 0; content->is_array() && i < content->size(); ++i) {
    RETURN_IF_ERROR(ReadBlock((*content)[i], assistant, where, &blocks));
  }
  out->insert(out->end(), blocks.results.begin(), blocks.results.end());
  if (!blocks.results.empty() && blocks.text.empty()) return absl::OkStatus();
  MessageText message(*role);
  message.Add("content", JsonString(blocks.text));
  if (!blocks.thought.empty()) message.Add("reasoning_content", JsonString(blocks.thought));
  for (const Json* call : blocks.calls) {
    const std::string* id = TextMember(*call, "id");
    const Json* input = Member(*call, "input");
    message.AddCall(id == nullptr ? "" : *id, *TextMember(*call, "name"), input == nullptr ? "{}" : Printed(*input));
  }
  out->push_back(std::move(message).Finish());
  return absl::OkStatus();
}

absl::Status ReadHistory(const Json& json, ChatInput* input) {
  std::vector<std::string> messages;
  if (const Json* system = Member(json, "system")) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextParts(*system, kTextParts, "system"));
    MessageText message("system");
    message.Add("content", JsonString(text));
    if (!text.empty()) messages.push_back(std::move(message).Finish());
  }
  const Json* list = Member(json, "messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return BadField("messages", "must be a list with at least one message");
  }
  for (size_t i = 0; i < list->size(); ++i) {
    RETURN_IF_ERROR(ReadMessage((*list)[i], absl::StrCat("messages.", i), &messages));
  }
  input->messages = absl::StrCat("[", absl::StrJoin(messages, ","), "]");
  input->continue_final_message = *TextMember(list->back(), "role") == "assistant";
  input->add_generation_prompt = !input->continue_final_message;
  return absl::OkStatus();
}

// As OpenAI writes them, which is what templates know.
absl::Status ReadTools(const Json& json, ChatInput* input, std::vector<std::string>* names) {
  const Json* tools = Member(json, "tools");
  if (tools == nullptr) return absl::OkStatus();
  if (!tools->is_array()) return BadField("tools", "must be a list");
  std::vector<std::string> out;
  for (const Json& tool : *tools) {
    const std::string* type = TextMember(tool, "type");
    if (type != nullptr && *type != "custom") {
      return BadField("tools", absl::StrCat("a tool of type ", Shown(Json(*type)), " is not supported here"));
    }
    const std::string* name = TextMember(tool, "name");
    const Json* schema = tool.is_object() ? Member(tool, "input_schema") : nullptr;
    if (name == nullptr || name->empty() || schema == nullptr || !schema->is_object()) {
      return BadField("tools", "a tool needs a name and an input_schema");
    }
    RETURN_IF_ERROR(CheckTexts(tool, {"description", "type"}, "tools"));
    const std::string* description = TextMember(tool, "description");
    out.push_back(absl::StrCat(R"({"type":"function","function":{"name":)", JsonString(*name), R"(,"description":)",
                               JsonString(description == nullptr ? "" : *description), R"(,"parameters":)",
                               Printed(*schema), "}}"));
    names->push_back(*name);
  }
  if (!out.empty()) input->tools = absl::StrCat("[", absl::StrJoin(out, ","), "]");
  return absl::OkStatus();
}

absl::Status ReadToolChoice(const Json& json, GenerationSpec* spec, ChatInput* input) {
  const Json* choice = Member(json, "tool_choice");
  if (choice == nullptr) return absl::OkStatus();
  const std::string* type = TextMember(*choice, "type");
  const std::string* name = TextMember(*choice, "name");
  if (type != nullptr && *type == "any") {
    RETURN_IF_ERROR(ForceCall("", spec->tools, &spec->forced_call));
  } else if (type != nullptr && *type == "tool" && name != nullptr && !name->empty()) {
    RETURN_IF_ERROR(ForceCall(*name, spec->tools, &spec->forced_call));
  } else if (type == nullptr || (*type != "auto" && *type != "none")) {
    return BadField("tool_choice", absl::StrCat(Shown(*choice),
                                                " is none of {\"type\": \"auto\"}, any, none, and tool "
                                                "with a name"));
  }
  bool alone = false;
  RETURN_IF_ERROR(Read(*choice, "disable_parallel_tool_use", &alone));
  spec->parallel_tool_calls = !alone;
  if (*type != "none") return absl::OkStatus();
  spec->tools.clear();
  input->tools.clear();
  return absl::OkStatus();
}

// {"type": "json_schema", "schema": {...}}, at both places where it was since it came.
absl::Status ReadOutputFormat(const Json& json, absl::string_view body, GenerationSpec* spec) {
  if (Member(json, "output_format") != nullptr) {
    RETURN_IF_ERROR(ReadFormat(RawMember(body, "output_format"), "output_format", spec));
  }
  const Json* config = Member(json, "output_config");
  if (config == nullptr) return absl::OkStatus();
  if (!config->is_object()) return BadField("output_config", "must be an object");
  if (Member(*config, "format") == nullptr) return absl::OkStatus();
  return ReadFormat(RawMember(RawMember(body, "output_config"), "format"), "output_config.format", spec);
}

// Thought is shown to who asks for it.
absl::Status ReadThinking(const Json& json, ApiRequest* request) {
  request->show_thought = false;
  const Json* thinking = Member(json, "thinking");
  if (thinking == nullptr) return absl::OkStatus();
  const std::string* type = TextMember(*thinking, "type");
  if (type == nullptr) return BadField("thinking", "needs a type");
  request->show_thought = *type != "disabled";
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiRequest> ParseCountTokens(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ApiRequest request;
  request.protocol = Protocol::kMessages;
  GenerationSpec& spec = request.spec;
  RETURN_IF_ERROR(RefuseUnsupported(json, kUnsupported));
  RETURN_IF_ERROR(ReadOneChoice(json, body, &spec));
  RETURN_IF_ERROR(ReadOutputFormat(json, body, &spec));
  RETURN_IF_ERROR(ReadTexts(json, "stop_sequences", &spec.stop));
  RETURN_IF_ERROR(Read(json, "stream", &request.stream));
  RETURN_IF_ERROR(ReadThinking(json, &request));
  ChatInput input;
  RETURN_IF_ERROR(ReadHistory(json, &input));
  RETURN_IF_ERROR(ReadTools(json, &input, &spec.tools));
  RETURN_IF_ERROR(ReadToolChoice(json, &spec, &input));
  spec.prompts.emplace_back(std::move(input));
  return request;
}

absl::StatusOr<ApiRequest> ParseMessages(absl::string_view body) {
  ASSIGN_OR_RETURN(ApiRequest request, ParseCountTokens(body));
  if (!request.spec.max_tokens) return BadField("max_tokens", "is missing");
  return request;
}

}  // namespace interlace
