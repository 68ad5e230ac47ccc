#include "coordinator/front/openai_reply.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "text/utf8.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

// Never throws: what is not UTF-8 comes out as U+FFFD.
std::string Print(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

const char* NameOf(FinishReason reason) { return reason == FinishReason::kStop ? "stop" : "length"; }

Json Head(const ReplyHead& head, bool chunk) {
  Json json;
  json["id"] = absl::StrCat(head.chat ? "chatcmpl-" : "cmpl-", head.name);
  json["object"] = !head.chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
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
    json["token_logprobs"].push_back(token.chosen.logprob);
    json["tokens"].push_back(KeyOf(token.chosen.text));
    Json top = Json::object();
    for (const ReplyScore& score : token.top) top.emplace(KeyOf(score.text), score.logprob);
    top.emplace(KeyOf(token.chosen.text), token.chosen.logprob);
    json["top_logprobs"].push_back(std::move(top));
  }
  return json;
}

Json LogprobsJson(const ReplyHead& head, const std::vector<ReplyToken>& tokens) {
  return head.chat ? ContentLogprobs(tokens) : LegacyLogprobs(tokens);
}

Json CardJson(const ModelCard& card) {
  Json json;
  json["id"] = card.id;
  json["object"] = "model";
  json["created"] = card.created;
  json["owned_by"] = "interlace";
  json["root"] = card.id;
  json["parent"] = nullptr;
  json["max_model_len"] = card.context;
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

std::string TextChunk(const ReplyHead& head, size_t choice, absl::string_view text, const Usage* usage,
                      const std::vector<ReplyToken>* logprobs) {
  Json json;
  json["index"] = choice;
  (head.chat ? json["delta"]["content"] : json["text"]) = std::string(text);
  if (logprobs != nullptr) json["logprobs"] = LogprobsJson(head, *logprobs);
  json["finish_reason"] = nullptr;
  return Chunk(head, std::move(json), usage);
}

std::string FinishChunk(const ReplyHead& head, size_t choice, FinishReason reason, const Usage* usage) {
  Json json;
  json["index"] = choice;
  if (head.chat) {
    json["delta"] = Json::object();
  } else {
    json["text"] = "";
  }
  json["finish_reason"] = NameOf(reason);
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
    if (head.chat) {
      choice["message"]["role"] = "assistant";
      choice["message"]["content"] = choices[i].text;
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = choices[i].logprobs ? LogprobsJson(head, *choices[i].logprobs) : Json(nullptr);
    choice["finish_reason"] = NameOf(choices[i].finish);
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = UsageJson(usage);
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

std::string ModelJson(const ModelCard& card) { return Print(CardJson(card)); }

std::string ModelListJson(absl::Span<const ModelCard> cards) {
  Json json;
  json["object"] = "list";
  json["data"] = Json::array();
  for (const ModelCard& card : cards) json["data"].push_back(CardJson(card));
  return Print(json);
}

std::string HealthJson(const EngineLoad& load, bool ready) {
  Json json;
  json["status"] = ready ? "ok" : load.draining ? "draining" : "waiting for ranks";
  json["ranks_ready"] = load.ranks_ready;
  json["ranks"] = load.ranks;
  json["running"] = load.running;
  json["waiting"] = load.waiting;
  return Print(json);
}

namespace {

Json TargetJson(const std::optional<absl::Duration>& asked, std::optional<absl::Duration> reached,
                const std::optional<bool>& met) {
  Json row;
  row["asked_ms"] = asked ? Json(absl::ToDoubleMilliseconds(*asked)) : Json();
  row["reached_ms"] = reached ? Json(absl::ToDoubleMilliseconds(*reached)) : Json();
  row["met"] = met ? Json(*met) : Json();
  return row;
}

// What it asked for, what it got so far, and whether that is enough; null: did not ask, is not known.
Json TargetsJson(const Explanation& e) {
  const RequestTiming& timing = e.end.timing;
  const auto after = [&](int32_t tokens, absl::Duration reached) {
    return e.end.completion_tokens >= tokens ? std::optional(reached) : std::nullopt;
  };
  Json json;
  json["ttft"] = TargetJson(e.targets.ttft, after(1, timing.first_token), e.end.met.ttft);
  json["tpot"] = TargetJson(e.targets.tpot, after(2, timing.tpot), e.end.met.tpot);
  json["largest_gap"] = TargetJson(e.targets.largest_gap, after(2, timing.largest_gap), e.end.met.largest_gap);
  const bool ended = timing.total > absl::ZeroDuration();
  json["deadline"] = TargetJson(e.deadline < absl::InfiniteDuration() ? std::optional(e.deadline) : std::nullopt,
                                ended ? std::optional(timing.total) : std::nullopt, e.end.met.deadline);
  json["priority"] = e.targets.priority;
  json["fairness_id"] = e.targets.tenant;
  json["objective"] = e.targets.objective;
  return json;
}

}  // namespace

namespace {

Json DecisionsJson(const Explanation& e) {
  Json rows = Json::array();
  for (const Decision& decision : e.decisions) {
    Json row;
    row["kind"] = std::string(DecisionName(decision.kind));
    row["text"] = DecisionText(decision);
    row["at_seconds"] = absl::ToDoubleSeconds(decision.at);
    row["until_seconds"] = absl::ToDoubleSeconds(decision.until);
    row["times"] = decision.times;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json SpentJson(const TimeSpent& spent) {
  Json json;
  for (size_t i = 0; i < kSpendings; ++i) {
    json[absl::StrCat(SpendingName(static_cast<Spending>(i)), "_seconds")] = absl::ToDoubleSeconds(spent.of[i]);
  }
  return json;
}

}  // namespace

std::string ExplanationJson(const Explanation& e) {
  Json json;
  json["request_id"] = e.name;
  json["state"] = e.state;
  json["status"] = e.end.status.ToString();
  json["prompt_tokens"] = e.end.prompt_tokens;
  json["completion_tokens"] = e.end.completion_tokens;
  json["keep_layers"] = e.keep_layers;
  json["layers"] = e.layers.size();
  json["steps"] = e.steps;
  json["recomputes"] = e.recomputes;
  json["recomputed_tokens"] = e.recomputed_tokens;
  json["preemptions"] = e.preemptions;
  json["queue_seconds"] = absl::ToDoubleSeconds(e.end.timing.queue);
  json["first_token_seconds"] = absl::ToDoubleSeconds(e.end.timing.first_token);
  json["total_seconds"] = absl::ToDoubleSeconds(e.end.timing.total);
  json["spent"] = SpentJson(e.spent);
  json["step_reads"] = e.step_reads;
  json["step_budget"] = e.step_budget;
  json["targets"] = TargetsJson(e);
  json["by_layer"] = Json::array();
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    Json row;
    row["layer"] = l;
    row["stage"] = layer.stage;
    row["mode"] = layer.kept ? "keep" : "stream";
    row["blocks_device"] = layer.blocks_device;
    row["blocks_host"] = layer.blocks_host;
    row["bytes_in"] = layer.bytes_in;
    row["bytes_out"] = layer.bytes_out;
    row["stall_us"] = layer.stall_us;
    row["found_device"] = layer.found_device;
    row["found_host"] = layer.found_host;
    row["found_below"] = layer.found_below;
    row["computed"] = layer.computed;
    json["by_layer"].push_back(std::move(row));
  }
  json["decisions"] = DecisionsJson(e);
  json["decisions_left_out"] = e.decisions_left_out;
  return Print(json);
}

std::string TokensJson(absl::Span<const int32_t> tokens, int32_t context) {
  Json json;
  json["count"] = tokens.size();
  json["max_model_len"] = context;
  json["tokens"] = std::vector<int32_t>(tokens.begin(), tokens.end());
  return Print(json);
}

std::string DetokenizedJson(absl::string_view text) {
  Json json;
  json["prompt"] = std::string(text);
  return Print(json);
}

std::string VersionJson(absl::string_view version) {
  Json json;
  json["version"] = std::string(version);
  return Print(json);
}

}  // namespace interlace
