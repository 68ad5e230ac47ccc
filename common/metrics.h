// The metric catalogue and the registry behind /metrics.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace interlace {

enum class MetricKind { kCounter, kGauge, kHistogram };

struct MetricRow {
  absl::string_view name;
  MetricKind kind;
  absl::string_view labels;  // comma-separated label names a caller gives
  absl::string_view meaning;
};

// Every series a process may export; a name that is not here cannot be recorded. vllm:* are the names that routers and
// dashboards already read. docs/metrics.md is generated from this table.
inline constexpr MetricRow kMetrics[] = {
    {"vllm:num_requests_running", MetricKind::kGauge, "", "requests that hold KV"},
    {"vllm:num_requests_waiting", MetricKind::kGauge, "", "requests admitted and not started"},
    {"vllm:kv_cache_usage_perc", MetricKind::kGauge, "", "share of logical KV blocks in use, 0..1"},
    {"vllm:prompt_tokens_total", MetricKind::kCounter, "", "prompt tokens accepted"},
    {"vllm:generation_tokens_total", MetricKind::kCounter, "", "tokens generated"},
    {"vllm:request_success_total", MetricKind::kCounter, "finished_reason", "requests that ended with a result"},
    {"vllm:num_preemptions_total", MetricKind::kCounter, "", "requests put back to waiting for lack of blocks"},
    {"vllm:time_to_first_token_seconds", MetricKind::kHistogram, "", "arrival to first token"},
    {"vllm:inter_token_latency_seconds", MetricKind::kHistogram, "", "gap between tokens of one request"},
    {"vllm:e2e_request_latency_seconds", MetricKind::kHistogram, "", "arrival to last token"},
    {"vllm:request_queue_time_seconds", MetricKind::kHistogram, "", "arrival to first step"},
    {"interlace_requests_failed_total", MetricKind::kCounter, "code", "requests that ended with an error status"},
    {"interlace_steps_total", MetricKind::kCounter, "", "step plans executed"},
    {"interlace_step_seconds", MetricKind::kHistogram, "", "plan sent to all its results arrived"},
    {"interlace_ranks_ready", MetricKind::kGauge, "", "ranks of the replica that are registered"},
    {"interlace_kv_blocks_held", MetricKind::kGauge, "", "logical KV blocks held by requests"},
    {"interlace_kv_arena_slots_used", MetricKind::kGauge, "stage", "device slots in use after the last step"},
    {"interlace_kv_tier_blocks", MetricKind::kGauge, "stage,tier", "blocks stored in a tier by a rank"},
    {"interlace_kv_tier_bytes", MetricKind::kGauge, "stage,tier", "bytes stored in a tier by a rank"},
    {"interlace_transfer_bytes_total", MetricKind::kCounter, "direction", "KV bytes moved; in: towards the device"},
    {"interlace_transfer_busy_seconds_total", MetricKind::kCounter, "direction", "time that KV transfers took"},
    {"interlace_layer_stall_seconds_total", MetricKind::kCounter, "", "time that layers waited for KV"},
    {"interlace_kv_block_corrupt_total", MetricKind::kCounter, "", "blocks whose checksum or key did not match"},
    {"interlace_kv_block_missing_total", MetricKind::kCounter, "", "blocks that a tier could not give back"},
    {"interlace_kv_recomputed_tokens_total", MetricKind::kCounter, "cause", "tokens computed again for lost KV"},
    {"interlace_stale_messages_total", MetricKind::kCounter, "kind", "results refused for an old epoch or attempt"},
};

using MetricLabels = std::initializer_list<std::pair<absl::string_view, absl::string_view>>;

// The series of one process. Owned by main; any thread. The trap: an unlisted name or a label that its row does not
// list is a bug of ours and aborts.
class Metrics {
 public:
  // `model_name` becomes a label on every series.
  explicit Metrics(std::string model_name);
  ~Metrics();

  void Add(absl::string_view counter, double amount = 1, MetricLabels labels = {});
  void Set(absl::string_view gauge, double value, MetricLabels labels = {});
  void Observe(absl::string_view histogram, double seconds, MetricLabels labels = {});
  // Prometheus text format.
  std::string Text() const;
  // Sum over all label values of one series; 0 if never recorded.
  double Total(absl::string_view name) const;

 private:
  struct Registry;
  std::unique_ptr<Registry> registry_;
};

}  // namespace interlace
