#include "coordinator/front/messages_answer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/front/fidelity_json.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

std::string Print(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// The type is told twice, as Anthropic's clients want it.
std::string Event(const Json& json) {
  return absl::StrCat("event: ", json["type"].get<std::string>(), "\ndata: ", Print(json), "\n\n");
}

Json UsageJson(const Usage& usage) {
  Json json;
  json["input_tokens"] = usage.prompt_tokens - usage.cached_tokens;
  json["output_tokens"] = usage.completion_tokens;
  json["cache_creation_input_tokens"] = 0;
  json["cache_read_input_tokens"] = usage.cached_tokens;
  return json;
}

Json StopOf(const ReplyChoice& end) {
  Json json;
  json["stop_reason"] = end.finish == FinishReason::kLength ? "max_tokens"
                        : !end.calls.empty()                ? "tool_use"
                        : !end.stop.empty()                 ? "stop_sequence"
                                                            : "end_turn";
  json["stop_sequence"] = end.stop.empty() ? Json(nullptr) : Json(end.stop);
  return json;
}

Json MessageJson(const ReplyHead& head) {
  Json json;
  json["id"] = absl::StrCat("msg_", head.name);
  json["type"] = "message";
  json["role"] = "assistant";
  json["model"] = head.model;
  json["content"] = Json::array();
  json["stop_reason"] = nullptr;
  json["stop_sequence"] = nullptr;
  return json;
}

// The object that the arguments are; what the model wrote otherwise is kept as a text.
Json InputOf(const std::string& arguments) {
  Json json = Json::parse(arguments, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  Json kept;
  kept["arguments"] = arguments;
  return kept;
}

Json CallBlock(const ReplyHead& head, size_t index, const std::string& name, Json input) {
  Json json;
  json["type"] = "tool_use";
  json["id"] = CallId(head, 0, index);
  json["name"] = name;
  json["input"] = std::move(input);
  return json;
}

Json TextBlock(const std::string& text) {
  Json json;
  json["type"] = "text";
  json["text"] = text;
  return json;
}

Json ThoughtBlock(const std::string& thought) {
  Json json;
  json["type"] = "thinking";
  json["thinking"] = thought;
  json["signature"] = "";
  return json;
}

std::string DeltaEvent(size_t block, const char* type, const char* field, const std::string& text) {
  Json json;
  json["type"] = "content_block_delta";
  json["index"] = block;
  json["delta"]["type"] = type;
  json["delta"][field] = text;
  return Event(json);
}

const char* ErrorType(int http) {
  switch (http) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return http < 500 ? "invalid_request_error" : "api_error";
  }
}

Json ErrorJson(const ApiError& error) {
  Json json;
  json["type"] = "error";
  json["error"]["type"] = ErrorType(error.http);
  json["error"]["message"] = error.message;
  return json;
}

}  // namespace

std::string MessagesErrorBody(const ApiError& error) { return Print(ErrorJson(error)); }

Answer::Events MessagesAnswer::Begin(size_t, const Usage& usage) {
  Json json;
  json["type"] = "message_start";
  json["message"] = MessageJson(head_);
  json["message"]["usage"] = UsageJson(usage);
  return {Event(json)};
}

void MessagesAnswer::Close(Events* events) {
  if (open_ == Block::kNone) return;
  Json json;
  json["type"] = "content_block_stop";
  json["index"] = blocks_++;
  events->push_back(Event(json));
  open_ = Block::kNone;
}

void MessagesAnswer::Open(Block block, const CallDelta* call, Events* events) {
  if (open_ == block && (call == nullptr || call->index == call_)) return;
  Close(events);
  open_ = block;
  Json json;
  json["type"] = "content_block_start";
  json["index"] = blocks_;
  if (call != nullptr) call_ = call->index;
  json["content_block"] = block == Block::kText      ? TextBlock("")
                          : block == Block::kThought ? ThoughtBlock("")
                                                     : CallBlock(head_, call_, call->name, Json::object());
  events->push_back(Event(json));
}

Answer::Events MessagesAnswer::Add(size_t, const OutputDelta& delta, const std::vector<ReplyToken>*, const Usage&) {
  Events events;
  if (!delta.thought.empty()) {
    Open(Block::kThought, nullptr, &events);
    events.push_back(DeltaEvent(blocks_, "thinking_delta", "thinking", delta.thought));
  }
  if (!delta.text.empty()) {
    Open(Block::kText, nullptr, &events);
    events.push_back(DeltaEvent(blocks_, "text_delta", "text", delta.text));
  }
  for (const CallDelta& call : delta.calls) {
    if (call.name.empty() && call.arguments.empty()) continue;
    Open(Block::kCall, &call, &events);
    if (!call.arguments.empty()) {
      events.push_back(DeltaEvent(blocks_, "input_json_delta", "partial_json", call.arguments));
    }
  }
  return events;
}

Answer::Events MessagesAnswer::Finish(size_t, const ReplyChoice& end, const Usage&) {
  end_ = end;
  Events events;
  Close(&events);
  return events;
}

Answer::Events MessagesAnswer::End(const Usage& usage) {
  Json json, last;
  json["type"] = "message_delta";
  json["delta"] = StopOf(end_);
  json["usage"] = UsageJson(usage);
  AddFidelity(end_.fidelity, &json);
  last["type"] = "message_stop";
  return {Event(json), Event(last)};
}

Answer::Events MessagesAnswer::Fail(const ApiError& error) { return {Event(ErrorJson(error))}; }

std::string MessagesAnswer::Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) {
  const ReplyChoice& choice = choices[0];
  Json json = MessageJson(head_);
  if (!choice.thought.empty()) json["content"].push_back(ThoughtBlock(choice.thought));
  if (!choice.text.empty()) json["content"].push_back(TextBlock(choice.text));
  for (const ReplyCall& call : choice.calls) {
    json["content"].push_back(CallBlock(head_, call.index, call.name, InputOf(call.arguments)));
  }
  json.update(StopOf(choice));
  json["usage"] = UsageJson(usage);
  AddFidelity(choice.fidelity, &json);
  return Print(json);
}

}  // namespace interlace
