#include "bench/serve/load_json.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "bench/serve/load_figures.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kFormat = 1;

int64_t Ns(absl::Duration d) { return absl::ToInt64Nanoseconds(d); }

// Servers may send anything; what is no UTF-8 is replaced rather than thrown at us.
std::string Dump(const OrderedJson& value) { return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

// 1 for Poisson, the shape for gamma, as in vLLM; null where the arrivals are no gamma process.
OrderedJson Burstiness(absl::string_view arrivals) {
  if (arrivals == "poisson") return 1.0;
  double shape = 0;
  if (absl::ConsumePrefix(&arrivals, "gamma ") && absl::SimpleAtod(arrivals, &shape)) return shape;
  return nullptr;
}

void PutLatency(const Distribution& d, absl::string_view key, OrderedJson* out) {
  const auto put = [&](absl::string_view stat, double value) {
    (*out)[absl::StrCat(stat, "_", key, "_ms")] = d.count == 0 ? OrderedJson(nullptr) : OrderedJson(value * 1e3);
  };
  put("mean", d.mean);
  put("median", d.p50);
  put("std", d.std);
  put("p50", d.p50);
  put("p90", d.p90);
  put("p95", d.p95);
  put("p99", d.p99);
}

// The arrays of --save-detailed. A request that failed has length 0 and TTFT 0 in them, as in vLLM.
void PutDetails(const LoadRun& run, OrderedJson* out) {
  for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"}) {
    (*out)[key] = OrderedJson::array();
  }
  for (const RequestRecord& record : run.records) {
    const RequestFigures f = FiguresOfRequest(record);
    const bool ok = record.outcome == LoadOutcome::kOk || record.outcome == LoadOutcome::kCancelled;
    (*out)["input_lens"].push_back(record.prompt_tokens);
    (*out)["output_lens"].push_back(f.output_tokens);
    (*out)["ttfts"].push_back(f.ttft.value_or(0));
    (*out)["itls"].push_back(ok ? OrderedJson(GapsOf(record)) : OrderedJson::array());
    (*out)["start_times"].push_back(absl::ToDoubleSeconds(record.sent));
    (*out)["generated_texts"].push_back(record.text);
    (*out)["errors"].push_back(
        ok ? "" : absl::StrCat(LoadOutcomeName(record.outcome), record.error.empty() ? "" : ": ", record.error));
  }
}

// The keys of vLLM's `bench serve` result (vllm/benchmarks/serve.py). A figure that does not exist is null, not 0.
OrderedJson VllmPart(const LoadRun& run, const LoadFigures& f, bool detailed) {
  OrderedJson out;
  const std::string backend = absl::StartsWith(run.server, "grpc") ? "interlace" : "openai";
  out["date"] = absl::FormatTime("%Y%m%d-%H%M%S", run.began, absl::UTCTimeZone());
  out["endpoint_type"] = backend;
  out["backend"] = backend;
  out["label"] = run.label;
  out["model_id"] = run.model;
  out["tokenizer_id"] = nullptr;
  out["num_prompts"] = f.requests;
  out["request_rate"] = run.offered_rate > 0 ? OrderedJson(run.offered_rate) : OrderedJson("inf");
  out["burstiness"] = Burstiness(run.arrivals);
  out["max_concurrency"] = run.concurrency > 0 ? OrderedJson(run.concurrency) : OrderedJson(nullptr);
  out["duration"] = f.seconds;
  out["completed"] = f.completed();
  out["failed"] = f.requests - f.completed();
  out["total_input_tokens"] = f.input_tokens;
  out["total_output_tokens"] = f.output_tokens;
  out["request_throughput"] = f.request_throughput;
  out["request_goodput"] = f.has_targets ? OrderedJson(f.goodput) : OrderedJson(nullptr);
  out["output_throughput"] = f.output_throughput;
  out["total_token_throughput"] = f.input_throughput + f.output_throughput;
  if (detailed) PutDetails(run, &out);
  out["max_output_tokens_per_s"] = f.peak_output_throughput;
  out["max_concurrent_requests"] = f.peak_concurrency;
  PutLatency(f.ttft, "ttft", &out);
  PutLatency(f.tpot, "tpot", &out);
  PutLatency(f.itl, "itl", &out);
  PutLatency(f.e2el, "e2el", &out);
  return out;
}

OrderedJson AttainmentJson(const Attainment& a) {
  if (a.asked == 0) return nullptr;
  return {{"asked", a.asked}, {"met", a.met}, {"share", a.share()}};
}

OrderedJson FiguresJson(const LoadFigures& f) {
  OrderedJson out;
  for (int i = 0; i < kLoadOutcomes; ++i) {
    out["outcomes"][std::string(LoadOutcomeName(static_cast<LoadOutcome>(i)))] = f.outcomes[static_cast<size_t>(i)];
  }
  out["shed_rate"] = f.shed_rate;
  out["error_rate"] = f.error_rate;
  for (const LatencyMetric& metric : LatencyMetrics()) {
    const Distribution& d = f.*metric.field;
    OrderedJson& to = out["latency_ms"][std::string(metric.key)] = {{"count", d.count}};
    if (d.count == 0) continue;
    to.update(OrderedJson{{"mean", d.mean * 1e3},
                          {"p50", d.p50 * 1e3},
                          {"p90", d.p90 * 1e3},
                          {"p95", d.p95 * 1e3},
                          {"p99", d.p99 * 1e3},
                          {"std", d.std * 1e3},
                          {"max", d.max * 1e3}});
  }
  out["input_throughput"] = f.input_throughput;
  out["wasted_output_tokens"] = f.wasted_tokens;
  if (f.has_targets) {
    out["good"] = f.good;
    out["judged"] = f.judged;
    out["good_share"] = f.good_share;
    out["token_goodput"] = f.token_goodput;
    out["attainment"] = {{"ttft", AttainmentJson(f.met_ttft)},
                         {"tpot", AttainmentJson(f.met_tpot)},
                         {"largest_gap", AttainmentJson(f.met_largest_gap)},
                         {"e2el", AttainmentJson(f.met_e2el)}};
  }
  out["hit_rate"] = f.hit_rate;
  out["hit_rate_ceiling"] = f.hit_rate_ceiling;
  out["queue_grows"] = f.queue_grows;
  out["valid"] = f.valid;
  if (!f.valid) out["invalid_because"] = f.invalid_because;
  return out;
}

OrderedJson TargetsJson(const LoadTargets& targets) {
  OrderedJson out = OrderedJson::object();
  if (targets.ttft) out["ttft"] = Ns(*targets.ttft);
  if (targets.tpot) out["tpot"] = Ns(*targets.tpot);
  if (targets.largest_gap) out["largest_gap"] = Ns(*targets.largest_gap);
  if (targets.e2el) out["e2el"] = Ns(*targets.e2el);
  return out;
}

// All times in nanoseconds: since the run began; of "gaps" since the delivery before, the first since it was sent. What
// is zero or empty is left out.
OrderedJson RecordJson(const RequestRecord& r) {
  OrderedJson out;
  out["index"] = r.index;
  const auto put = [&](const char* key, const auto& value) {
    if (value != std::decay_t<decltype(value)>{}) out[key] = value;
  };
  put("request_id", r.request_id);
  if (r.session >= 0) out["session"] = r.session;
  put("turn", r.turn);
  put("tenant", r.tenant);
  put("priority", r.priority);
  if (r.targets != LoadTargets{}) out["targets"] = TargetsJson(r.targets);
  out["due"] = Ns(r.due);
  out["sent"] = Ns(r.sent);
  out["ended"] = Ns(r.ended);
  out["outcome"] = LoadOutcomeName(r.outcome);
  if (!r.chunks.empty()) {
    OrderedJson& gaps = out["gaps"] = OrderedJson::array();
    absl::Duration before = r.sent;
    for (const absl::Duration at : r.chunks) {
      gaps.push_back(Ns(at) - Ns(before));
      before = at;
    }
  }
  const bool ones = r.chunk_tokens.size() == r.chunks.size() &&
                    std::all_of(r.chunk_tokens.begin(), r.chunk_tokens.end(), [](int32_t n) { return n == 1; });
  if (!ones) out["tokens"] = r.chunk_tokens;
  put("http_status", r.http_status);
  put("error", r.error);
  put("finish_reason", r.finish_reason);
  put("prompt_tokens", r.prompt_tokens);
  put("completion_tokens", r.completion_tokens);
  put("cached_tokens", r.cached_tokens);
  put("shared_prefix_tokens", r.shared_prefix_tokens);
  put("retry_after", Ns(r.retry_after));
  put("text", r.text);
  return out;
}

OrderedJson OurPart(const LoadRun& run, const LoadFigures& figures) {
  OrderedJson out = {{"format", kFormat}};
  out["run"] = {{"label", run.label},
                {"server", run.server},
                {"model", run.model},
                {"dataset", run.dataset},
                {"arrivals", run.arrivals},
                {"offered_rate", run.offered_rate},
                {"concurrency", run.concurrency},
                {"seed", run.seed},
                {"began", absl::ToUnixNanos(run.began)},
                {"duration", Ns(run.duration)},
                {"elapsed", Ns(run.elapsed)},
                {"over_saturated", run.over_saturated},
                {"stopped_because", run.stopped_because},
                {"client_cpu", Ns(run.client_cpu)},
                {"unsent", run.unsent}};
  out["figures"] = FiguresJson(figures);
  OrderedJson& records = out["records"] = OrderedJson::array();
  for (const RequestRecord& record : run.records) records.push_back(RecordJson(record));
  return out;
}

OrderedJson EnvironmentJson(const LoadEnvironment& e) {
  return {{"commit", e.commit}, {"hardware", e.hardware}, {"command", e.command}};
}

OrderedJson CapacityJson(const CapacityResult& c) {
  OrderedJson out = {{"rate", c.rate},
                     {"low", c.low},
                     {"high", c.high},
                     {"at_least", c.at_least},
                     {"stopped_because", c.stopped_because}};
  out["seeds"] = OrderedJson::array();
  for (const SeedCapacity& s : c.seeds) {
    // No rate was seen to fail: infinite, which JSON has no number for.
    const OrderedJson high = std::isfinite(s.high) ? OrderedJson(s.high) : OrderedJson(nullptr);
    out["seeds"].push_back({{"seed", s.seed}, {"low", s.low}, {"high", high}});
  }
  out["steps"] = OrderedJson::array();
  for (const CapacityStep& s : c.steps) {
    out["steps"].push_back(
        {{"seed", s.seed}, {"rate", s.rate}, {"share", s.share}, {"holds", s.holds}, {"why", s.why}});
  }
  if (!std::isfinite(c.high)) out["high"] = nullptr;
  return out;
}

// What is said of the report as a whole.
void PutReport(const LoadReport& report, OrderedJson* out) {
  (*out)["environment"] = EnvironmentJson(report.environment);
  if (report.capacity.has_value()) (*out)["capacity"] = CapacityJson(*report.capacity);
}

}  // namespace

std::string LoadReportJson(const LoadReport& report, const LoadJsonOptions& options) {
  OrderedJson runs = OrderedJson::array();
  for (const LoadRun& run : report.runs) {
    const LoadFigures figures = FiguresOf(run);
    OrderedJson result = VllmPart(run, figures, options.detailed);
    result["interlace"] = OurPart(run, figures);
    runs.push_back(std::move(result));
  }
  if (runs.size() == 1) {
    PutReport(report, &runs[0]["interlace"]);
    return Dump(runs[0]) + "\n";
  }
  OrderedJson out;
  out["interlace"] = {{"format", kFormat}};
  PutReport(report, &out["interlace"]);
  out["runs"] = std::move(runs);
  return Dump(out) + "\n";
}

absl::StatusOr<LoadReport> ReadLoadReport(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  std::ostringstream content;
  content << file.rdbuf();
  if (!file.good() && !file.eof()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return ParseLoadReport(content.str(), path);
}

absl::Status WriteLoadFile(const std::string& path, absl::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  if (!file) return absl::PermissionDeniedError(absl::StrCat(path, ": could not be written"));
  return absl::OkStatus();
}

}  // namespace interlace
