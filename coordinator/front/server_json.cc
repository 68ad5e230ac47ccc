#include "coordinator/front/server_json.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

// Never throws: what is not UTF-8 comes out as U+FFFD.
std::string Print(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json CardJson(const ModelCard& card) {
  Json json;
  json["id"] = card.id;
  json["object"] = "model";
  json["created"] = card.created;
  json["owned_by"] = "interlace";
  json["root"] = card.root;
  json["parent"] = card.parent.empty() ? Json() : Json(card.parent);
  json["max_model_len"] = card.context;
  return json;
}

}  // namespace

std::string ModelJson(const ModelCard& card) { return Print(CardJson(card)); }

std::string ModelListJson(absl::Span<const ModelCard> cards) {
  Json json;
  json["object"] = "list";
  json["data"] = Json::array();
  for (const ModelCard& card : cards) json["data"].push_back(CardJson(card));
  return Print(json);
}

std::string HealthJson(const EngineLoad& load, bool ready, bool standby) {
  Json json;
  json["status"] = ready ? "ok" : load.draining ? "draining" : standby ? "standby" : "waiting for ranks";
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

std::string LoadJson(const EngineLoad& load) {
  Json json;
  json["server_load"] = load.running + load.waiting;
  return Print(json);
}

std::string TokensJson(absl::Span<const int32_t> tokens, int32_t context, const std::vector<std::string>* texts) {
  Json json;
  json["count"] = tokens.size();
  json["max_model_len"] = context;
  json["tokens"] = std::vector<int32_t>(tokens.begin(), tokens.end());
  json["token_strs"] = texts != nullptr ? Json(*texts) : Json(nullptr);
  return Print(json);
}

std::string TokenizerInfoJson(const std::optional<std::string>& bos, const std::optional<std::string>& eos,
                              int32_t vocab) {
  const auto text_or_null = [](const std::optional<std::string>& text) { return text ? Json(*text) : Json(nullptr); };
  Json json;
  json["tokenizer_class"] = "interlace";
  json["bos_token"] = text_or_null(bos);
  json["eos_token"] = text_or_null(eos);
  json["pad_token"] = nullptr;
  json["vocab_size"] = vocab;
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
