#include "coordinator/front/openai_reply.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/front/fidelity_json.h"
#include "text/utf8.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

// Never throws: what is not UTF-8 comes out as U+FFFD.
std::string Print(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

const char* FinishOf(const ReplyChoice& choice) {
  if (choice.finish == FinishReason::kLength) return "length";
  return choice.calls.empty() ? "stop" : "tool_calls";
}

bool IsChat(const ReplyHead& head) { return head.protocol == Protocol::kChat; }

Json Head(const ReplyHead& head, bool chunk) {
  Json json;
  json["id"] = absl::StrCat(IsChat(head) ? "chatcmpl-" : "cmpl-", head.name);
  json["object"] = !IsChat(head) ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  json["created"] = head.created;
  json["model"] = head.model;
  return json;
}

Json UsageJson(const Usage& usage) {
  Json json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  return json;
}

std::string Chunk(const ReplyHead& head, Json choice, const Usage* usage) {
  Json json = Head(head, /*chunk=*/true);
  json["choices"] = Json::array();
  json["choices"].push_back(std::move(choice));
  if (usage != nullptr) json["usage"] = UsageJson(*usage);
  return Print(json);
}

Json BytesJson(const std::string& text) {
  Json bytes = Json::array();
  for (char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

Json ScoreJson(const ReplyScore& score) {
  Json json;
  json["token"] = score.text;
  json["logprob"] = score.logprob;
  json["bytes"] = BytesJson(score.text);
  return json;
}

// Of a chat.
Json ContentLogprobs(const std::vector<ReplyToken>& tokens) {
  Json json;
  json["content"] = Json::array();
  for (const ReplyToken& token : tokens) {
    Json entry = ScoreJson(token.chosen);
    entry["top_logprobs"] = Json::array();
    for (const ReplyScore& score : token.top) entry["top_logprobs"].push_back(ScoreJson(score));
    json["content"].push_back(std::move(entry));
  }
  json["refusal"] = nullptr;
  return json;
}

// A key for a token: its text, or OpenAI's spelling of bytes that are none by themselves.
std::string KeyOf(absl::string_view text) {
  for (absl::string_view rest = text; !rest.empty();) {
    const Utf8Front front = Utf8FrontOf(rest);
    if (front.kind != Utf8Front::kComplete) {
      std::string key = "bytes:";
      for (char c : text) absl::StrAppend(&key, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
      return key;
    }
    rest.remove_prefix(front.bytes);
  }
  return std::string(text);
}

// Of a completion. The chosen token is among the top ones, or one more.
Json LegacyLogprobs(const std::vector<ReplyToken>& tokens) {
  Json json;
  for (const char* list : {"text_offset", "token_logprobs", "tokens", "top_logprobs"}) json[list] = Json::array();
  for (const ReplyToken& token : tokens) {
    json["text_offset"].push_back(token.offset);
    json["tokens"].push_back(KeyOf(token.chosen.text));
    if (!token.scored) {
      json["token_logprobs"].push_back(nullptr);
      json["top_logprobs"].push_back(nullptr);
      continue;
    }
    json["token_logprobs"].push_back(token.chosen.logprob);
    Json top = Json::object();
    for (const ReplyScore& score : token.top) top.emplace(KeyOf(score.text), score.logprob);
    top.emplace(KeyOf(token.chosen.text), token.chosen.logprob);
    json["top_logprobs"].push_back(std::move(top));
  }
  return json;
}

Json LogprobsJson(const ReplyHead& head, const std::vector<ReplyToken>& tokens) {
  return IsChat(head) ? ContentLogprobs(tokens) : LegacyLogprobs(tokens);
}

// As vLLM writes them: for each token null, or an object with an entry for it and for each of the most likely, by id.
Json PromptLogprobsJson(const std::vector<ReplyToken>& tokens) {
  const auto entry = [](const ReplyScore& score) {
    Json json;
    json["logprob"] = score.logprob;
    json["rank"] = score.rank;
    json["decoded_token"] = score.text;
    return json;
  };
  Json json = Json::array();
  for (const ReplyToken& token : tokens) {
    if (!token.scored) {
      json.push_back(nullptr);
      continue;
    }
    Json one = Json::object();
    one.emplace(absl::StrCat(token.chosen.token), entry(token.chosen));
    for (const ReplyScore& score : token.top) one.emplace(absl::StrCat(score.token), entry(score));
    json.push_back(std::move(one));
  }
  return json;
}

// Both names that clients look for.
void AddThought(const std::string& thought, Json* json) {
  if (thought.empty()) return;
  (*json)["reasoning_content"] = thought;
  (*json)["reasoning"] = thought;
}

Json DeltaJson(const ReplyHead& head, size_t choice, const OutputDelta& delta) {
  Json json = Json::object();
  AddThought(delta.thought, &json);
  if (!delta.text.empty() || delta.empty()) json["content"] = delta.text;
  for (const CallDelta& call : delta.calls) {
    if (call.name.empty() && call.arguments.empty()) continue;  // what was shown of it stays
    Json entry;
    entry["index"] = call.index;
    if (!call.name.empty()) {
      entry["id"] = CallId(head, choice, call.index);
      entry["type"] = "function";
      entry["function"]["name"] = call.name;
    }
    entry["function"]["arguments"] = call.arguments;
    json["tool_calls"].push_back(std::move(entry));
  }
  return json;
}

Json MessageJson(const ReplyHead& head, size_t index, const ReplyChoice& choice) {
  Json json;
  json["role"] = "assistant";
  json["content"] = choice.text.empty() && !choice.calls.empty() ? Json(nullptr) : Json(choice.text);
  AddThought(choice.thought, &json);
  for (size_t i = 0; i < choice.calls.size(); ++i) {
    Json entry;
    entry["id"] = CallId(head, index, choice.calls[i].index);
    entry["type"] = "function";
    entry["function"]["name"] = choice.calls[i].name;
    entry["function"]["arguments"] = choice.calls[i].arguments;
    json["tool_calls"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace

std::string RoleChunk(const ReplyHead& head, size_t choice, const Usage* usage) {
  Json json;
  json["index"] = choice;
  json["delta"]["role"] = "assistant";
  json["delta"]["content"] = "";
  json["finish_reason"] = nullptr;
  return Chunk(head, std::move(json), usage);
}

std::string DeltaChunk(const ReplyHead& head, size_t choice, const OutputDelta& delta, const Usage* usage,
                       const std::vector<ReplyToken>* logprobs) {
  Json json;
  json["index"] = choice;
  if (IsChat(head)) {
    json["delta"] = DeltaJson(head, choice, delta);
  } else {
    json["text"] = delta.text;
  }
  if (logprobs != nullptr) json["logprobs"] = LogprobsJson(head, *logprobs);
  json["finish_reason"] = nullptr;
  return Chunk(head, std::move(json), usage);
}

std::string FinishChunk(const ReplyHead& head, size_t choice, const ReplyChoice& end, const Usage* usage) {
  Json json;
  json["index"] = choice;
  if (IsChat(head)) {
    json["delta"] = Json::object();
  } else {
    json["text"] = "";
  }
  json["finish_reason"] = FinishOf(end);
  if (!end.stop.empty()) json["stop_reason"] = end.stop;
  AddFidelity(end.fidelity, &json);
  return Chunk(head, std::move(json), usage);
}

std::string UsageChunk(const ReplyHead& head, const Usage& usage) {
  Json json = Head(head, /*chunk=*/true);
  json["choices"] = Json::array();
  json["usage"] = UsageJson(usage);
  return Print(json);
}

std::string SseEvent(absl::string_view text) { return absl::StrCat("data: ", text, "\n\n"); }

std::string WholeAnswer(const ReplyHead& head, absl::Span<const ReplyChoice> choices, const Usage& usage) {
  Json json = Head(head, /*chunk=*/false);
  json["choices"] = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    Json choice;
    choice["index"] = i;
    if (IsChat(head)) {
      choice["message"] = MessageJson(head, i, choices[i]);
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = choices[i].logprobs ? LogprobsJson(head, *choices[i].logprobs) : Json(nullptr);
    choice["finish_reason"] = FinishOf(choices[i]);
    if (!choices[i].stop.empty()) choice["stop_reason"] = choices[i].stop;
    AddFidelity(choices[i].fidelity, &choice);
    if (!IsChat(head) && choices[i].prompt_logprobs) {
      choice["prompt_logprobs"] = PromptLogprobsJson(*choices[i].prompt_logprobs);
    }
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = UsageJson(usage);
  if (IsChat(head) && !choices.empty() && choices[0].prompt_logprobs) {
    json["prompt_logprobs"] = PromptLogprobsJson(*choices[0].prompt_logprobs);
  }
  return Print(json);
}

std::string ErrorBody(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  Json json;
  json["error"]["message"] = error.message;
  json["error"]["type"] = error.type;
  json["error"]["param"] = text_or_null(error.param);
  json["error"]["code"] = text_or_null(error.code);
  return Print(json);
}

}  // namespace interlace
