#include "coordinator/front/ui_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;

// ---- durations: milliseconds to a microsecond; infinite and absent ones are null

Json Ms(absl::Duration time) {
  if (time == absl::InfiniteDuration() || time == -absl::InfiniteDuration()) return nullptr;
  return std::round(absl::ToDoubleMicroseconds(time)) * 1e-3;
}
Json Ms(const std::optional<absl::Duration>& time) { return time ? Ms(*time) : Json(); }

std::optional<absl::Duration> MaybeTime(const Json& ms) {
  if (ms.is_null()) return std::nullopt;
  return absl::Microseconds(static_cast<int64_t>(std::llround(ms.get<double>() * 1e3)));
}
absl::Duration Time(const Json& ms) { return MaybeTime(ms).value_or(absl::InfiniteDuration()); }

// ---- what each part looks like

Json RoomJson(const RoomSnapshot& room) {
  return {{"held", room.held}, {"cached", room.cached}, {"ring", room.ring}, {"total", room.total}};
}
RoomSnapshot ParseRoom(const Json& json) {
  return {json.at("held"), json.at("cached"), json.at("ring"), json.at("total")};
}

Json StageJson(const StageSnapshot& stage) {
  return {{"layer_begin", stage.layer_begin},
          {"layer_end", stage.layer_end},
          {"device", RoomJson(stage.device)},
          {"host", RoomJson(stage.host)}};
}
StageSnapshot ParseStage(const Json& json) {
  return {json.at("layer_begin"), json.at("layer_end"), ParseRoom(json.at("device")), ParseRoom(json.at("host"))};
}

Json LayerJson(const LayerSnapshot& layer) {
  return {{"stage", layer.stage},         {"device", layer.device},           {"host", layer.host},
          {"unsealed", layer.unsealed},   {"streamed_by", layer.streamed_by}, {"bytes_in", layer.bytes_in},
          {"bytes_out", layer.bytes_out}, {"stall_ms", Ms(layer.stall)}};
}
LayerSnapshot ParseLayer(const Json& json) {
  return {json.at("stage"),       json.at("device"),   json.at("host"),      json.at("unsealed"),
          json.at("streamed_by"), json.at("bytes_in"), json.at("bytes_out"), Time(json.at("stall_ms"))};
}

Json ReplicaJson(const ReplicaRow& replica) {
  return {{"ranks", replica.ranks},     {"ranks_ready", replica.ranks_ready}, {"running", replica.running},
          {"waiting", replica.waiting}, {"blocks_held", replica.blocks_held}, {"blocks_cached", replica.blocks_cached},
          {"blocks", replica.blocks},   {"generated_tokens", replica.tokens},
          {"role", replica.role},       {"draining", replica.draining}};
}
ReplicaRow ParseReplica(const Json& json) {
  return {json.at("ranks"),       json.at("ranks_ready"),   json.at("running"), json.at("waiting"),
          json.at("blocks_held"), json.at("blocks_cached"), json.at("blocks"),  json.at("generated_tokens"),
          json.at("role"),        json.at("draining")};
}

Json MetJson(const TargetsMet& met) {
  const auto one = [](const std::optional<bool>& is) { return is ? Json(*is) : Json(); };
  return {{"ttft", one(met.ttft)},
          {"tpot", one(met.tpot)},
          {"largest_gap", one(met.largest_gap)},
          {"deadline", one(met.deadline)}};
}
TargetsMet ParseMet(const Json& json) {
  const auto one = [&](const char* name) -> std::optional<bool> {
    const Json& is = json.at(name);
    return is.is_null() ? std::nullopt : std::optional<bool>(is.get<bool>());
  };
  return {one("ttft"), one("tpot"), one("largest_gap"), one("deadline")};
}

Json RequestJson(const RequestSnapshot& request) {
  Json phases = Json::array();
  for (const RequestSnapshot::Span& span : request.phases) {
    phases.push_back({{"phase", std::string(NameOf(span.phase))}, {"begin_ms", Ms(span.begin)}});
  }
  Json json = {{"request_id", request.name},
               {"replica", request.replica},
               {"state", std::string(NameOf(request.state))},
               {"tenant", request.targets.tenant},
               {"priority", request.targets.priority},
               {"objective", request.targets.objective},
               {"prompt_tokens", request.prompt},
               {"generated_tokens", request.generated},
               {"max_tokens", request.max_tokens},
               {"computed_tokens", request.computed},
               {"cached_tokens", request.cached},
               {"kept_layers", request.kept},
               {"layers", request.layers},
               {"age_ms", Ms(request.age)},
               {"started_ms", Ms(request.started)},
               {"first_token_ms", Ms(request.first_token)},
               {"since_token_ms", Ms(request.since_token)},
               {"largest_gap_ms", Ms(request.largest_gap)},
               {"slack_ms", Ms(request.slack)},
               {"targets",
                {{"ttft_ms", Ms(request.targets.ttft)},
                 {"tpot_ms", Ms(request.targets.tpot)},
                 {"largest_gap_ms", Ms(request.targets.largest_gap)},
                 {"deadline_ms", Ms(request.deadline)}}},
               {"phases", std::move(phases)}};
  if (request.state == RequestState::kFinished || request.state == RequestState::kFailed) {
    json["ended_ms"] = Ms(request.ended);
    json["status"] = request.status;
    json["met"] = MetJson(request.met);
  }
  return json;
}

// The value whose name the text is. Throws like the JSON library where there is none.
template <typename Value, size_t N>
Value ParseName(const std::array<absl::string_view, N>& names, const std::string& text) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) throw Json::other_error::create(501, absl::StrCat("'", text, "' is unknown"), nullptr);
  return static_cast<Value>(found - names.begin());
}

RequestSnapshot ParseRequest(const Json& json) {
  RequestSnapshot request;
  request.name = json.at("request_id");
  request.replica = json.at("replica");
  request.state = ParseName<RequestState>(kRequestStates, json.at("state"));
  const Json& targets = json.at("targets");
  request.targets = {MaybeTime(targets.at("ttft_ms")),
                     MaybeTime(targets.at("tpot_ms")),
                     MaybeTime(targets.at("largest_gap_ms")),
                     json.at("priority"),
                     json.at("tenant"),
                     json.at("objective")};
  request.deadline = Time(targets.at("deadline_ms"));
  request.prompt = json.at("prompt_tokens");
  request.generated = json.at("generated_tokens");
  request.max_tokens = json.at("max_tokens");
  request.computed = json.at("computed_tokens");
  request.cached = json.at("cached_tokens");
  request.kept = json.at("kept_layers");
  request.layers = json.at("layers");
  request.age = Time(json.at("age_ms"));
  request.started = MaybeTime(json.at("started_ms"));
  request.first_token = MaybeTime(json.at("first_token_ms"));
  request.since_token = MaybeTime(json.at("since_token_ms"));
  request.largest_gap = Time(json.at("largest_gap_ms"));
  request.slack = Time(json.at("slack_ms"));
  for (const Json& span : json.at("phases")) {
    request.phases.push_back({ParseName<RequestPhase>(kRequestPhases, span.at("phase")), Time(span.at("begin_ms"))});
  }
  if (json.contains("ended_ms")) {
    request.ended = Time(json.at("ended_ms"));
    request.status = json.at("status");
    request.met = ParseMet(json.at("met"));
  }
  return request;
}

Json TallyJson(const TargetTally& tally) { return {{"met", tally.met}, {"missed", tally.missed}}; }
TargetTally ParseTally(const Json& json) { return {json.at("met"), json.at("missed")}; }

Json SloJson(const SloTally& slo) {
  return {{"ttft", TallyJson(slo.ttft)},
          {"tpot", TallyJson(slo.tpot)},
          {"largest_gap", TallyJson(slo.largest_gap)},
          {"deadline", TallyJson(slo.deadline)},
          {"finished", slo.finished},
          {"failed", slo.failed},
          {"goodput", slo.goodput}};
}
SloTally ParseSlo(const Json& json) {
  return {ParseTally(json.at("ttft")),
          ParseTally(json.at("tpot")),
          ParseTally(json.at("largest_gap")),
          ParseTally(json.at("deadline")),
          json.at("finished"),
          json.at("failed"),
          json.at("goodput")};
}

template <typename T, typename Print>
Json ListJson(const std::vector<T>& values, const Print& print) {
  Json list = Json::array();
  for (const T& value : values) list.push_back(print(value));
  return list;
}
template <typename T, typename Parse>
void ParseList(const Json& json, const Parse& parse, std::vector<T>* values) {
  for (const Json& value : json) values->push_back(parse(value));
}

UiState Parse(const Json& json) {
  UiState state{json.at("model"), json.at("version"), {}};
  ReplicaSnapshot& replica = state.replica;
  replica.policy = json.at("policy");
  replica.uptime = Time(json.at("uptime_ms"));
  replica.ranks = json.at("ranks");
  replica.ranks_ready = json.at("ranks_ready");
  ParseList(json.at("replicas"), ParseReplica, &replica.replicas);
  replica.draining = json.at("draining");
  replica.layers = json.at("layers");
  replica.block_tokens = json.at("block_tokens");
  replica.slot_bytes = json.at("slot_bytes");
  ParseList(json.at("stages"), ParseStage, &replica.stages);
  ParseList(json.at("by_layer"), ParseLayer, &replica.by_layer);
  const Json& queue = json.at("queue");
  replica.waiting = queue.at("waiting");
  replica.fetching = queue.at("fetching");
  replica.running = queue.at("running");
  replica.streaming = queue.at("streaming");
  replica.parked = queue.at("parked");
  ParseList(json.at("requests"), ParseRequest, &replica.requests);
  ParseList(json.at("ended"), ParseRequest, &replica.ended);
  const Json& counters = json.at("counters");
  replica.prompt_tokens = counters.at("prompt_tokens");
  replica.tokens = counters.at("generated_tokens");
  replica.positions = counters.at("computed_tokens");
  replica.slo = ParseSlo(json.at("slo"));
  const Json& step = json.at("step");
  replica.steps = step.at("count");
  replica.step_p50 = Time(step.at("p50_ms"));
  replica.step_p95 = Time(step.at("p95_ms"));
  ParseList(
      json.at("seconds"),
      [](const Json& second) {
        return SecondSnapshot{second.at("generated_tokens"), second.at("computed_tokens")};
      },
      &replica.seconds);
  return state;
}

}  // namespace

std::string UiStateJson(const UiState& state) {
  const ReplicaSnapshot& replica = state.replica;
  Json json;
  json["model"] = state.model;
  json["version"] = state.version;
  json["policy"] = replica.policy;
  json["uptime_ms"] = Ms(replica.uptime);
  json["ranks"] = replica.ranks;
  json["ranks_ready"] = replica.ranks_ready;
  json["replicas"] = ListJson(replica.replicas, ReplicaJson);
  json["draining"] = replica.draining;
  json["layers"] = replica.layers;
  json["block_tokens"] = replica.block_tokens;
  json["slot_bytes"] = replica.slot_bytes;
  json["stages"] = ListJson(replica.stages, StageJson);
  json["by_layer"] = ListJson(replica.by_layer, LayerJson);
  json["queue"] = {{"total", replica.total()},   {"waiting", replica.waiting},     {"fetching", replica.fetching},
                   {"running", replica.running}, {"streaming", replica.streaming}, {"parked", replica.parked}};
  json["requests"] = ListJson(replica.requests, RequestJson);
  json["ended"] = ListJson(replica.ended, RequestJson);
  json["counters"] = {{"prompt_tokens", replica.prompt_tokens},
                      {"generated_tokens", replica.tokens},
                      {"computed_tokens", replica.positions}};
  json["slo"] = SloJson(replica.slo);
  json["step"] = {{"count", replica.steps}, {"p50_ms", Ms(replica.step_p50)}, {"p95_ms", Ms(replica.step_p95)}};
  json["seconds"] = ListJson(replica.seconds, [](const SecondSnapshot& second) -> Json {
    return {{"generated_tokens", second.tokens}, {"computed_tokens", second.positions}};
  });
  // What is not UTF-8 comes out as U+FFFD.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<UiState> ParseUiState(absl::string_view json) {
  const Json parsed = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError("it is not JSON");
  try {
    return Parse(parsed);
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("it is not the state of a replica: ", e.what()));
  }
}

}  // namespace interlace
