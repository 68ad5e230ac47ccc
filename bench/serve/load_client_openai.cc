#include "bench/serve/load_client_openai.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

const Json* Member(const Json& json, const char* field) {
  if (!json.is_object()) return nullptr;
  const auto it = json.find(field);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

absl::string_view Text(const Json* json) {
  return json != nullptr && json->is_string() ? absl::string_view(json->get_ref<const std::string&>()) : "";
}

int32_t Count(const Json* json, int32_t otherwise) {
  return json != nullptr && json->is_number_integer() ? json->get<int32_t>() : otherwise;
}

// Messages for an endpoint that knows none: the one message, or all of them with who said it.
std::string Transcript(const std::vector<std::pair<std::string, std::string>>& messages) {
  if (messages.size() == 1) return messages[0].second;
  std::string text;
  for (const auto& [role, content] : messages) absl::StrAppend(&text, role, ": ", content, "\n");
  return text + "assistant:";
}

std::string Milliseconds(absl::Duration d) { return absl::StrCat(absl::ToInt64Milliseconds(d)); }

// Of the error object in its several spellings; empty: there is none.
std::string ErrorOf(const Json& json) {
  const Json* error = Member(json, "error");
  if (error == nullptr)
    return Text(Member(json, "object")) == "error" ? std::string(Text(Member(json, "message"))) : "";
  if (error->is_string()) return error->get<std::string>();
  const absl::string_view message = Text(Member(*error, "message"));
  return message.empty() ? error->dump(-1, ' ', false, Json::error_handler_t::replace) : std::string(message);
}

// What the first choice of a chunk adds to the answer. Reasoning is a delivery like any other, but no part of the text
// that the next turn's prompt repeats: chat templates leave it out.
struct Delivered {
  absl::string_view text, reasoning;
};
Delivered DeliveredBy(const Json& choice, bool chat) {
  if (!chat) return {Text(Member(choice, "text")), ""};
  const Json* delta = Member(choice, "delta");
  if (delta == nullptr) return {};
  const absl::string_view newer = Text(Member(*delta, "reasoning"));
  return {Text(Member(*delta, "content")), newer.empty() ? Text(Member(*delta, "reasoning_content")) : newer};
}

}  // namespace

std::string OpenAiBody(const PlannedRequest& request, bool chat, const LoadClientOptions& options) {
  Json body;
  body["model"] = options.model;
  if (chat) {
    body["messages"] = Json::array();
    for (const auto& [role, content] : request.messages) {
      body["messages"].push_back({{"role", role}, {"content", content}});
    }
  } else if (!request.prompt_ids.empty()) {
    body["prompt"] = request.prompt_ids;
  } else {
    body["prompt"] = request.messages.empty() ? request.prompt : Transcript(request.messages);
  }
  if (request.max_tokens > 0) body["max_tokens"] = request.max_tokens;
  body["temperature"] = options.temperature;
  body["stream"] = true;
  body["stream_options"]["include_usage"] = true;
  if (options.continuous_usage) body["stream_options"]["continuous_usage_stats"] = true;
  if (request.ignore_eos) body["ignore_eos"] = true;
  if (request.priority != 0) body["priority"] = request.priority;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::pair<std::string, std::string>> TargetHeaders(const PlannedRequest& request) {
  std::vector<std::pair<std::string, std::string>> headers;
  const LoadTargets& targets = request.targets;
  if (targets.ttft) headers.emplace_back("x-llm-d-slo-ttft-ms", Milliseconds(*targets.ttft));
  if (targets.tpot) headers.emplace_back("x-llm-d-slo-tpot-ms", Milliseconds(*targets.tpot));
  if (targets.largest_gap) headers.emplace_back("x-llm-d-slo-largest-gap-ms", Milliseconds(*targets.largest_gap));
  if (request.deadline) headers.emplace_back("x-interlace-deadline-ms", Milliseconds(*request.deadline));
  if (!request.tenant.empty()) headers.emplace_back("x-llm-d-inference-fairness-id", request.tenant);
  return headers;
}

std::string ErrorText(absl::string_view body) {
  const Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) {
    if (std::string error = ErrorOf(json); !error.empty()) return error;
  }
  return absl::CHexEscape(body.substr(0, 200));
}

void OpenAiStream::Feed(absl::string_view bytes, absl::Duration now) {
  const absl::Status status = parser_.Feed(bytes, [&](absl::string_view data) {
    if (!ended_) OnData(data, now);
  });
  if (!ended_ && !status.ok()) Close(LoadOutcome::kGarbage, std::string(status.message()), now);
}

void OpenAiStream::End(absl::Duration now, absl::string_view how) {
  if (ended_) return;
  // A last event without its empty line is taken; what stops within a line is no event.
  const absl::Status ignored = parser_.End([&](absl::string_view data) {
    if (!ended_) OnData(data, now);
  });
  (void)ignored;
  if (!ended_) Close(LoadOutcome::kTruncated, std::string(how), now);
}

void OpenAiStream::OnData(absl::string_view data, absl::Duration now) {
  if (data == "[DONE]") {
    if (record_->finish_reason.empty()) {
      Close(LoadOutcome::kTruncated, "[DONE] came before any finish_reason", now);
    } else {
      Close(LoadOutcome::kOk, "", now);
    }
    return;
  }
  const Json json = Json::parse(data.begin(), data.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return Close(LoadOutcome::kGarbage, absl::StrCat("an event is not JSON: ", absl::CHexEscape(data.substr(0, 80))),
                 now);
  }
  if (std::string error = ErrorOf(json); !error.empty()) return Close(LoadOutcome::kFailed, std::move(error), now);
  const Json* choices = Member(json, "choices");
  const Json* usage = Member(json, "usage");
  if ((choices == nullptr || !choices->is_array()) && usage == nullptr) {
    return Close(LoadOutcome::kGarbage,
                 absl::StrCat("an event has neither choices nor usage: ", absl::CHexEscape(data.substr(0, 80))), now);
  }
  if (usage != nullptr) {
    usage_ = Count(Member(*usage, "completion_tokens"), usage_);
    record_->prompt_tokens = Count(Member(*usage, "prompt_tokens"), record_->prompt_tokens);
    if (const Json* details = Member(*usage, "prompt_tokens_details")) {
      record_->cached_tokens = Count(Member(*details, "cached_tokens"), record_->cached_tokens);
    }
  }
  if (choices == nullptr || choices->empty()) return;
  const Json& choice = choices->front();
  if (const absl::string_view reason = Text(Member(choice, "finish_reason")); !reason.empty()) {
    record_->finish_reason = std::string(reason);
  }
  const Delivered delivered = DeliveredBy(choice, chat_);
  if (delivered.text.empty() && delivered.reasoning.empty()) return;
  const int32_t tokens = usage_ >= 0 ? std::max(0, usage_ - counted_) : 1;
  counted_ += tokens;
  record_->chunks.push_back(now);
  record_->chunk_tokens.push_back(tokens);
  if (keep_text_) absl::StrAppend(&record_->text, delivered.text);
  if (cancel_after_tokens_ >= 0 && counted_ >= cancel_after_tokens_) Close(LoadOutcome::kCancelled, "", now);
}

void OpenAiStream::Close(LoadOutcome outcome, std::string error, absl::Duration now) {
  ended_ = true;
  record_->outcome = outcome;
  record_->error = std::move(error);
  record_->ended = now;
  record_->completion_tokens = usage_ >= 0 ? usage_ : counted_;
  SpreadTokens(record_);
}

void SpreadTokens(RequestRecord* record) {
  std::vector<int32_t>& tokens = record->chunk_tokens;
  const int64_t counted = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
  const int64_t total = record->completion_tokens;
  if (counted == total || counted == 0) return;
  int64_t before = 0;
  for (int32_t& n : tokens) {
    const int64_t after = before + n;
    n = static_cast<int32_t>(after * total / counted - before * total / counted);
    before = after;
  }
}

}  // namespace interlace
