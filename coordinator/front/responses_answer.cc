#include "coordinator/front/responses_answer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/front/fidelity_json.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;
using Item = ResponsesAnswer::Item;
using Kind = ResponsesAnswer::Kind;

std::string Print(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string Event(const char* type, Json fields, int64_t* number) {
  Json json;
  json["type"] = type;
  json["sequence_number"] = (*number)++;
  json.update(fields);
  return absl::StrCat("event: ", type, "\ndata: ", Print(json), "\n\n");
}

Json UsageJson(const Usage& usage) {
  Json json;
  json["input_tokens"] = usage.prompt_tokens;
  json["input_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  json["output_tokens"] = usage.completion_tokens;
  json["output_tokens_details"]["reasoning_tokens"] = 0;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  return json;
}

std::string ItemId(const ReplyHead& head, size_t index, Kind kind) {
  return absl::StrCat(kind == Kind::kText ? "msg_" : kind == Kind::kCall ? "fc_" : "rs_", head.name, "-", index);
}

Json TextPart(const std::string& text) {
  Json json;
  json["type"] = "output_text";
  json["text"] = text;
  json["annotations"] = Json::array();
  return json;
}

Json ItemJson(const ReplyHead& head, size_t index, const Item& item, bool done) {
  Json json;
  json["id"] = ItemId(head, index, item.kind);
  json["type"] = item.kind == Kind::kText ? "message" : item.kind == Kind::kCall ? "function_call" : "reasoning";
  json["status"] = !done ? "in_progress" : item.cut ? "incomplete" : "completed";
  if (item.kind == Kind::kCall) {
    json["call_id"] = CallId(head, 0, item.call);
    json["name"] = item.name;
    json["arguments"] = item.content;
    return json;
  }
  json[item.kind == Kind::kText ? "role" : "summary"] = item.kind == Kind::kText ? Json("assistant") : Json::array();
  json["content"] = Json::array();
  if (!done) return json;
  if (item.kind == Kind::kText) {
    json["content"].push_back(TextPart(item.content));
  } else {
    json["content"].push_back({{"type", "reasoning_text"}, {"text", item.content}});
  }
  return json;
}

// How an answer stands.
struct Standing {
  const char* status;
  Json error = nullptr, incomplete = nullptr;
  const Usage* usage = nullptr;  // null: the answer is not complete
  FidelityReport fidelity = {};
};

// What it repeats of the request is put in as text: it may be large, and nobody here looks at it.
std::string ResponseText(const ReplyHead& head, const Standing& standing, const std::vector<Item>& items) {
  Json json;
  json["id"] = absl::StrCat("resp_", head.name);
  json["object"] = "response";
  json["created_at"] = head.created;
  json["status"] = standing.status;
  json["error"] = standing.error;
  json["incomplete_details"] = standing.incomplete;
  json["model"] = head.model;
  json["output"] = Json::array();
  for (size_t i = 0; i < items.size(); ++i) json["output"].push_back(ItemJson(head, i, items[i], true));
  json["previous_response_id"] = nullptr;
  json["store"] = false;
  json["text"]["format"]["type"] = "text";
  json["truncation"] = "disabled";
  json["usage"] = standing.usage == nullptr ? Json(nullptr) : UsageJson(*standing.usage);
  AddFidelity(standing.fidelity, &json);
  std::string text = Print(json);
  if (head.echoed.size() <= 2) return text;  // {}
  text.back() = ',';
  return absl::StrCat(text, absl::string_view(head.echoed).substr(1));
}

std::string EndedText(const ReplyHead& head, const ReplyChoice& end, const std::vector<Item>& items,
                      const Usage& usage) {
  Standing standing{.status = "completed", .usage = &usage, .fidelity = end.fidelity};
  if (end.finish == FinishReason::kLength) {
    standing.status = "incomplete";
    standing.incomplete["reason"] = "max_output_tokens";
  }
  return ResponseText(head, standing, items);
}

std::string ResponseEvent(const char* type, const std::string& response, int64_t* number) {
  return absl::StrCat("event: ", type, "\ndata: {\"type\":\"", type, "\",\"sequence_number\":", (*number)++,
                      ",\"response\":", response, "}\n\n");
}

// Which item an event is about.
Json Place(const ReplyHead& head, size_t index, Kind kind) {
  Json json;
  json["item_id"] = ItemId(head, index, kind);
  json["output_index"] = index;
  if (kind != Kind::kCall) json["content_index"] = 0;
  return json;
}

struct Names {
  const char* delta;
  const char* done;
  const char* field;
};
Names NamesOf(Kind kind) {
  switch (kind) {
    case Kind::kText:
      return {"response.output_text.delta", "response.output_text.done", "text"};
    case Kind::kThought:
      return {"response.reasoning_text.delta", "response.reasoning_text.done", "text"};
    case Kind::kCall:
      break;
  }
  return {"response.function_call_arguments.delta", "response.function_call_arguments.done", "arguments"};
}

}  // namespace

Answer::Events ResponsesAnswer::Begin(size_t, const Usage&) {
  const std::string response = ResponseText(head_, {.status = "in_progress"}, {});
  return {ResponseEvent("response.created", response, &events_),
          ResponseEvent("response.in_progress", response, &events_)};
}

void ResponsesAnswer::Close(Events* events) {
  if (!open_) return;
  open_ = false;
  const size_t index = items_.size() - 1;
  const Item& item = items_.back();
  const Names names = NamesOf(item.kind);
  Json done = Place(head_, index, item.kind);
  done[names.field] = item.content;
  if (item.kind == Kind::kText) done["logprobs"] = Json::array();
  if (item.kind == Kind::kCall) done["name"] = item.name;
  events->push_back(Event(names.done, done, &events_));
  if (item.kind == Kind::kText) {
    Json part = Place(head_, index, item.kind);
    part["part"] = TextPart(item.content);
    events->push_back(Event("response.content_part.done", part, &events_));
  }
  events->push_back(Event("response.output_item.done",
                          {{"output_index", index}, {"item", ItemJson(head_, index, item, true)}}, &events_));
}

ResponsesAnswer::Item& ResponsesAnswer::Open(Kind kind, const CallDelta* call, Events* events) {
  if (open_ && items_.back().kind == kind && (call == nullptr || call->index == items_.back().call)) {
    return items_.back();
  }
  Close(events);
  open_ = true;
  const size_t index = items_.size();
  items_.push_back({kind, call == nullptr ? 0 : call->index, call == nullptr ? "" : call->name, ""});
  events->push_back(Event("response.output_item.added",
                          {{"output_index", index}, {"item", ItemJson(head_, index, items_.back(), false)}}, &events_));
  if (kind == Kind::kText) {
    Json part = Place(head_, index, kind);
    part["part"] = TextPart("");
    events->push_back(Event("response.content_part.added", part, &events_));
  }
  return items_.back();
}

void ResponsesAnswer::Put(Kind kind, const CallDelta* call, const std::string& more, Events* events) {
  Item& item = Open(kind, call, events);
  if (more.empty()) return;
  item.content += more;
  Json delta = Place(head_, items_.size() - 1, kind);
  delta["delta"] = more;
  if (kind == Kind::kText) delta["logprobs"] = Json::array();
  events->push_back(Event(NamesOf(kind).delta, delta, &events_));
}

Answer::Events ResponsesAnswer::Add(size_t, const OutputDelta& delta, const std::vector<ReplyToken>*, const Usage&) {
  Events events;
  if (!delta.thought.empty()) Put(Kind::kThought, nullptr, delta.thought, &events);
  if (!delta.text.empty()) Put(Kind::kText, nullptr, delta.text, &events);
  for (const CallDelta& call : delta.calls) {
    if (!call.name.empty() || !call.arguments.empty()) Put(Kind::kCall, &call, call.arguments, &events);
    if (!call.undone.empty()) items_.back().cut = true;
  }
  return events;
}

Answer::Events ResponsesAnswer::Finish(size_t, const ReplyChoice& end, const Usage&) {
  end_.finish = end.finish;
  end_.fidelity = end.fidelity;
  if (open_ && end_.finish == FinishReason::kLength) items_.back().cut = true;
  Events events;
  Close(&events);
  return events;
}

Answer::Events ResponsesAnswer::End(const Usage& usage) {
  const char* type = end_.finish == FinishReason::kStop ? "response.completed" : "response.incomplete";
  return {ResponseEvent(type, EndedText(head_, end_, items_, usage), &events_)};
}

Answer::Events ResponsesAnswer::Fail(const ApiError& error) {
  Standing standing{.status = "failed"};
  standing.error["code"] = error.code.empty() ? "server_error" : error.code;
  standing.error["message"] = error.message;
  return {ResponseEvent("response.failed", ResponseText(head_, standing, items_), &events_)};
}

std::string ResponsesAnswer::Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) {
  const ReplyChoice& choice = choices[0];
  std::vector<Item> items;
  if (!choice.thought.empty()) items.push_back({Kind::kThought, 0, "", choice.thought});
  if (!choice.text.empty() || choice.calls.empty()) items.push_back({Kind::kText, 0, "", choice.text});
  for (const ReplyCall& call : choice.calls) items.push_back({Kind::kCall, call.index, call.name, call.arguments});
  if (choice.finish == FinishReason::kLength && !items.empty()) items.back().cut = true;
  return EndedText(head_, choice, items, usage);
}

}  // namespace interlace
