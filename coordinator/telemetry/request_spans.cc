#include "coordinator/telemetry/request_spans.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr int32_t kGroup = 8;  // layers

double Seconds(absl::Duration time) { return absl::ToDoubleSeconds(time); }

const char* NameOf(RequestPhase phase, bool begun) {
  switch (phase) {
    case RequestPhase::kWaiting:
      return "queue";
    case RequestPhase::kFetching:
      return "kv.restore";
    case RequestPhase::kRunning:
      return begun ? "decode" : "prefill";
    case RequestPhase::kParked:
      return "parked";
  }
  return "queue";
}

SpanAttributes AttributesOf(const EndedRequest& ended, const std::string& base) {
  const Request& request = ended.request;
  const std::string& model = request.adapter != nullptr ? request.adapter->name : base;
  const Explanation& e = ended.explanation;
  const TimeSpent& spent = e.spent;
  const absl::Duration prefill = spent[Spending::kPrefill] + spent[Spending::kFetching];
  const absl::Duration decode = spent[Spending::kDecode] + spent[Spending::kSatOut];
  return {
      {"gen_ai.operation.name", std::string(request.pooled ? "embeddings" : "text_completion")},
      {"gen_ai.provider.name", std::string("interlace")},
      {"gen_ai.request.id", request.name},
      {"gen_ai.request.model", model},
      {"gen_ai.response.model", model},
      {"gen_ai.request.max_tokens", int64_t{request.max_tokens}},
      {"gen_ai.request.temperature", double{request.sampling.temperature}},
      {"gen_ai.request.top_p", double{request.sampling.top_p}},
      {"gen_ai.request.n", int64_t{std::max(1, request.choices)}},
      {"gen_ai.usage.num_sequences", int64_t{1}},
      {"gen_ai.usage.prompt_tokens", int64_t{e.end.prompt_tokens}},
      {"gen_ai.usage.completion_tokens", int64_t{e.end.completion_tokens}},
      {"gen_ai.usage.cached_tokens", int64_t{e.end.cached_tokens}},
      {"gen_ai.latency.time_in_queue", Seconds(e.end.timing.queue)},
      {"gen_ai.latency.time_to_first_token", Seconds(e.end.timing.first_token)},
      {"gen_ai.latency.e2e", Seconds(e.end.timing.total)},
      {"gen_ai.latency.time_in_scheduler", Seconds(spent[Spending::kQueued] + spent[Spending::kParked])},
      {"gen_ai.latency.time_in_model_prefill", Seconds(prefill)},
      {"gen_ai.latency.time_in_model_decode", Seconds(decode)},
      {"gen_ai.latency.time_in_model_inference", Seconds(prefill + decode)},
      {"interlace.keep_layers", int64_t{e.keep_layers}},
      {"interlace.steps", int64_t{e.steps}},
      {"interlace.recomputed_tokens", int64_t{e.recomputed_tokens}},
      {"interlace.preemptions", int64_t{e.preemptions}},
  };
}

// The parts of its time, which follow one another.
void AddPhases(const EndedRequest& ended, absl::FunctionRef<void(const char*, absl::Time, absl::Time)> add) {
  const std::vector<RequestTrace::Change>& changes = ended.trace.changes();
  const bool any = ended.first_token != absl::InfinitePast();
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto [phase, begin] = changes[i];
    const absl::Time end = i + 1 < changes.size() ? changes[i + 1].at : ended.ended;
    if (phase == RequestPhase::kRunning && any && begin < ended.first_token && ended.first_token < end) {
      add(NameOf(phase, false), begin, ended.first_token);
      add(NameOf(phase, true), ended.first_token, end);
    } else {
      add(NameOf(phase, any && ended.first_token <= begin), begin, end);
    }
  }
}

// KV of one group of layers on its way.
struct Transfers {
  int32_t stage = 0, first_layer = 0, last_layer = 0;
  int64_t bytes_in = 0, bytes_out = 0, stall_us = 0;
  absl::Duration begin = absl::InfiniteDuration(), end;
};

std::vector<Transfers> TransfersOf(const Explanation& explanation) {
  std::vector<Transfers> groups;
  for (size_t l = 0; l < explanation.layers.size(); ++l) {
    const LayerExplanation& layer = explanation.layers[l];
    if (layer.bytes_in == 0 && layer.bytes_out == 0) continue;
    const auto at = static_cast<int32_t>(l);
    if (groups.empty() || groups.back().stage != layer.stage || groups.back().first_layer / kGroup != at / kGroup) {
      groups.push_back({layer.stage, at});
    }
    Transfers& group = groups.back();
    group.last_layer = at;
    group.bytes_in += layer.bytes_in;
    group.bytes_out += layer.bytes_out;
    group.stall_us += layer.stall_us;
    group.begin = std::min(group.begin, layer.first_move);
    group.end = std::max(group.end, layer.last_move);
  }
  return groups;
}

}  // namespace

std::vector<Span> SpansOf(const EndedRequest& ended, const std::string& model, absl::FunctionRef<uint64_t()> draw) {
  const Request& request = ended.request;
  std::vector<Span> spans;
  Span& root = spans.emplace_back();
  root.trace = request.trace;
  root.id = draw();
  root.name = "llm_request";
  root.server = true;
  root.start = request.arrival;
  root.end = ended.ended;
  root.attributes = AttributesOf(ended, model);
  root.status = ended.explanation.end.status;
  for (const Decision& decision : ended.explanation.decisions) {
    root.events.push_back({std::string(DecisionName(decision.kind)),
                           request.arrival + decision.at,
                           {{"text", DecisionText(decision)}, {"times", int64_t{decision.times}}}});
  }
  TraceContext of_child = request.trace;
  of_child.parent = root.id;
  const auto add = [&](const char* name, absl::Time begin, absl::Time end) -> Span& {
    Span& span = spans.emplace_back();
    span.trace = of_child;
    span.id = draw();
    span.name = name;
    span.start = begin;
    span.end = std::max(begin, end);
    return span;
  };
  AddPhases(ended, [&](const char* name, absl::Time begin, absl::Time end) { add(name, begin, end); });
  for (const Transfers& group : TransfersOf(ended.explanation)) {
    Span& span = add("kv.transfer", request.arrival + group.begin, request.arrival + group.end);
    span.attributes = {{"interlace.stage", int64_t{group.stage}},
                       {"interlace.layers", absl::StrCat(group.first_layer, "-", group.last_layer)},
                       {"interlace.bytes_in", group.bytes_in},
                       {"interlace.bytes_out", group.bytes_out},
                       {"interlace.stall_seconds", 1e-6 * static_cast<double>(group.stall_us)}};
  }
  return spans;
}

}  // namespace interlace
