// The metric catalogue and the registry behind /metrics.
#pragma once

#include <array>
#include <atomic>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

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
    {"vllm:prefix_cache_queries_total", MetricKind::kCounter, "",
     "prompt tokens that were looked up in the prefix cache"},
    {"vllm:prefix_cache_hits_total", MetricKind::kCounter, "", "prompt tokens whose KV the prefix cache gave"},
    {"vllm:num_preemptions_total", MetricKind::kCounter, "", "requests put back to waiting for lack of blocks"},
    {"vllm:time_to_first_token_seconds", MetricKind::kHistogram, "", "arrival to first token"},
    {"vllm:inter_token_latency_seconds", MetricKind::kHistogram, "", "gap between tokens of one request"},
    {"vllm:e2e_request_latency_seconds", MetricKind::kHistogram, "", "arrival to last token"},
    {"vllm:request_queue_time_seconds", MetricKind::kHistogram, "", "arrival to first step"},
    {"vllm:request_prefill_time_seconds", MetricKind::kHistogram, "", "first step to first token"},
    {"vllm:request_decode_time_seconds", MetricKind::kHistogram, "", "first token to last token"},
    {"vllm:request_inference_time_seconds", MetricKind::kHistogram, "", "first step to the end"},
    {"vllm:request_time_per_output_token_seconds", MetricKind::kHistogram, "", "mean gap between tokens of a request"},
    {"vllm:request_prompt_tokens", MetricKind::kHistogram, "", "tokens of the prompts of requests that ended well"},
    {"vllm:request_generation_tokens", MetricKind::kHistogram, "", "tokens of the answers of requests that ended well"},
    {"vllm:request_max_num_generation_tokens", MetricKind::kHistogram, "",
     "the most tokens that any answer of a request has; here each answer is a request"},
    {"vllm:request_params_max_tokens", MetricKind::kHistogram, "", "max_tokens of requests that ended well"},
    {"vllm:request_params_n", MetricKind::kHistogram, "", "n of requests that ended well"},
    {"vllm:request_prefill_kv_computed_tokens", MetricKind::kHistogram, "",
     "tokens of a prompt whose KV was not there already"},
    {"vllm:iteration_tokens_total", MetricKind::kHistogram, "", "tokens of a step"},
    {"vllm:prompt_tokens_cached_total", MetricKind::kCounter, "", "prompt tokens whose KV was there already"},
    {"vllm:external_prefix_cache_queries_total", MetricKind::kCounter, "",
     "prompt tokens that ranks were asked to look for in their tiers"},
    {"vllm:external_prefix_cache_hits_total", MetricKind::kCounter, "", "prompt tokens whose KV the tiers gave"},
    {"vllm:cache_config_info", MetricKind::kGauge, "block_size,num_gpu_blocks",
     "1: tokens of a block, and whole blocks, all layers, that the device holds"},
    {"vllm:lora_requests_info", MetricKind::kGauge, "max_lora,running_lora_adapters,waiting_lora_adapters",
     "seconds since 1970 when it was looked at; adapters of requests that run and of those that wait, with commas"},
    {"vllm:kv_offload_total_bytes_total", MetricKind::kCounter, "transfer_type",
     "KV bytes moved; transfer_type: CPU_to_GPU or GPU_to_CPU"},
    {"vllm:kv_offload_total_time_total", MetricKind::kCounter, "transfer_type", "seconds that these moves took"},
    {"vllm:kv_offload_cpu_cache_usage_perc", MetricKind::kGauge, "", "share of the host frames in use, 0..1"},
    {"interlace_request_parks_total", MetricKind::kCounter, "",
     "times that a running request was set aside to make room"},
    {"interlace_request_seconds_total", MetricKind::kCounter, "spent",
     "seconds between arrival and end of the requests that ended, by what they went by; spent: queued, fetching, "
     "prefill, decode, parked or sat_out"},
    {"interlace_request_promotions_total", MetricKind::kCounter, "",
     "times that layers of a request moved to the device"},
    {"interlace_requests_quarantined_total", MetricKind::kCounter, "",
     "requests ended since each loss of a replica met them"},
    {"interlace_requests_failed_total", MetricKind::kCounter, "code", "requests that ended with an error status"},
    {"interlace_shed_total", MetricKind::kCounter, "reason",
     "requests ended since they were predicted to miss a target (sched.shed); reason: predicted_ttft_miss or "
     "predicted_deadline_miss"},
    {"interlace_door_refusals_total", MetricKind::kCounter, "reason,tenant",
     "requests that the limits of API keys refused; reason: key, requests, tokens or concurrent"},
    {"interlace_tenant_tokens_total", MetricKind::kCounter, "tenant",
     "tokens of prompts and answers that count against the tenant of an API key"},
    {"interlace_api_keys_stale", MetricKind::kGauge, "",
     "1: the file of API keys could not be used when it was last read, and what was read before counts"},
    {"interlace_tls_stale", MetricKind::kGauge, "",
     "1: the files of TLS could not be used when they were last read, and what was read before is shown"},
    {"interlace_draining", MetricKind::kGauge, "",
     "1: new requests are refused and those that run go on, since the server was drained or stops"},
    {"interlace_drain_cut_total", MetricKind::kCounter, "", "requests that the timeout of a drain ended"},
    {"interlace_slo_requests_total", MetricKind::kCounter, "target,met",
     "ended requests by target (ttft, tpot, largest_gap, deadline) and whether they met it"},
    {"interlace_slo_goodput_requests_total", MetricKind::kCounter, "",
     "requests that ended well and met every target they had"},
    {"interlace_constraint_compile_seconds", MetricKind::kHistogram, "",
     "what compiling the constraint of a request took; the same for each request that has it"},
    {"interlace_constraints_refused_total", MetricKind::kCounter, "",
     "requests refused since their constraint is broken, too large or not supported"},
    {"interlace_steps_total", MetricKind::kCounter, "", "step plans executed"},
    {"interlace_draft_tokens_total", MetricKind::kCounter, "drafter",
     "tokens guessed ahead: ngram, self or draft-model"},
    {"interlace_draft_tokens_accepted_total", MetricKind::kCounter, "drafter", "guesses that were right"},
    {"interlace_skip_advice_total", MetricKind::kCounter, "source",
     "skip plans that streams were given to draft by; source: entry (it served prompts like theirs: the index hit), "
     "static (the one that serves all prompts best: it missed) or trial (it may turn out to be better)"},
    {"interlace_skip_index_entries", MetricKind::kGauge, "", "plans that the skip index keeps for prompts like some"},
    {"interlace_skip_index_bytes", MetricKind::kGauge, "", "memory of the skip index"},
    {"interlace_skip_index_mib_worth_seconds", MetricKind::kGauge, "",
     "time that a further MiB would have saved, by prompts that would have hit what the skip index evicted"},
    {"interlace_skip_index_refused_total", MetricKind::kCounter, "",
     "files and keys of prompts that the skip index refused: damaged, or of another model, width or number of layers"},
    {"interlace_bounded_requests_total", MetricKind::kCounter, "outcome",
     "ended requests with fidelity=bounded; outcome: kept (their plan was on to the end), switched_off (too few audits "
     "agreed) or whole (no step of theirs passed anything over)"},
    {"interlace_bounded_steps_total", MetricKind::kCounter, "kind",
     "tokens of requests with fidelity=bounded; kind: skipped (made by a step that passed sublayers over), audited (by "
     "the whole model, and compared) or whole"},
    {"interlace_bounded_sublayers_saved_total", MetricKind::kCounter, "", "sublayers that those steps passed over"},
    {"interlace_bounded_audits_total", MetricKind::kCounter, "result",
     "audited steps; result: agreed (what passed sublayers over gives the whole model's token) or differed"},
    {"interlace_response_cache_lookups_total", MetricKind::kCounter, "result",
     "requests that came to the response cache; result: exact or semantic (an answer that was kept served them), "
     "explored (one might have, and theirs is compared with it) or miss"},
    {"interlace_response_cache_bypassed_total", MetricKind::kCounter, "cause",
     "requests that the response cache has nothing to do with; cause: sampled, choices, scores, tools, resumed, "
     "bounded or asked"},
    {"interlace_response_cache_compared_total", MetricKind::kCounter, "result",
     "answers compared with the one that might have served their request; result: equal or different"},
    {"interlace_response_cache_entries", MetricKind::kGauge, "", "answers that the response cache keeps"},
    {"interlace_response_cache_bytes", MetricKind::kGauge, "", "memory of the response cache"},
    {"interlace_response_cache_removed_total", MetricKind::kCounter, "cause",
     "answers that the response cache gave up; cause: room or age"},
    {"interlace_response_cache_saved_seconds_total", MetricKind::kCounter, "",
     "time that the answers took when they were made, added up over the requests that they served"},
    {"interlace_planned_tokens_total", MetricKind::kCounter, "", "tokens put into step plans, repeated ones included"},
    {"interlace_recomputed_tokens_total", MetricKind::kCounter, "cause",
     "planned tokens that had been planned before; cause: parked, replica lost, or how their KV was lost"},
    {"interlace_replica_losses_total", MetricKind::kCounter, "",
     "times that a replica lost a rank and had to form again"},
    {"interlace_step_seconds", MetricKind::kHistogram, "", "plan sent to all its results arrived"},
    {"interlace_rank_gap_seconds", MetricKind::kHistogram, "",
     "end of a step to the begin of the next on a rank, while somebody runs"},
    {"interlace_step_compute_seconds", MetricKind::kHistogram, "",
     "what the slowest stage took of a step, without its waits for KV"},
    {"interlace_step_predicted_seconds", MetricKind::kHistogram, "", "what the cost model had said of the same steps"},
    {"interlace_step_prediction_ratio", MetricKind::kHistogram, "", "of a step, what it took over what was predicted"},
    {"interlace_transfer_prediction_ratio", MetricKind::kHistogram, "route",
     "of a step's KV transfers, what they took over what was predicted; route: in, out or below"},
    {"interlace_ranks_ready", MetricKind::kGauge, "", "ranks of the replica that are registered"},
    {"interlace_kv_blocks_held", MetricKind::kGauge, "", "logical KV blocks held by requests"},
    {"interlace_kv_blocks_cached", MetricKind::kGauge, "",
     "sealed KV blocks that no request uses and that may be evicted"},
    {"interlace_kv_event_batches_total", MetricKind::kCounter, "", "batches of KV events made for routers of others"},
    {"interlace_kv_events_total", MetricKind::kCounter, "event",
     "blocks that these say are stored (also where they moved) or removed, and times that all are cleared"},
    {"interlace_kv_event_blocks", MetricKind::kGauge, "", "blocks that these say lie on the device or the host"},
    {"interlace_kv_event_readers", MetricKind::kGauge, "",
     "who follows these: subscriptions over gRPC, and the ZeroMQ socket as one"},
    {"interlace_kv_event_snapshots_total", MetricKind::kCounter, "",
     "readers over gRPC that began anew, with all blocks"},
    {"interlace_kv_event_missed_total", MetricKind::kCounter, "reason",
     "readers over gRPC that have to begin anew; reason: behind (slower than what is kept) or unknown (they ask for "
     "what "
     "is not kept, or not of this process)"},
    {"interlace_kv_event_replays_total", MetricKind::kCounter, "result",
     "requests for what was missed over ZeroMQ; result: done, or broken since the reader did not take it"},
    {"interlace_kv_frames_used", MetricKind::kGauge, "stage", "host frames in use after the last step"},
    {"interlace_kv_probe_blocks_total", MetricKind::kCounter, "",
     "blocks that ranks were asked to look for in their tiers"},
    {"interlace_kv_fetched_blocks_total", MetricKind::kCounter, "result",
     "blocks asked of the tiers; result: ok or missing"},
    {"interlace_kv_arena_slots_used", MetricKind::kGauge, "stage", "device slots in use after the last step"},
    {"interlace_kv_tier_blocks", MetricKind::kGauge, "stage,tier", "blocks stored in a tier by a rank"},
    {"interlace_kv_tier_bytes", MetricKind::kGauge, "stage,tier", "bytes stored in a tier by a rank"},
    {"interlace_transfer_bytes_total", MetricKind::kCounter, "direction", "KV bytes moved; in: towards the device"},
    {"interlace_transfer_busy_seconds_total", MetricKind::kCounter, "direction", "time that KV transfers took"},
    {"interlace_layer_stall_seconds_total", MetricKind::kCounter, "", "time that layers waited for KV"},
    {"interlace_kv_block_corrupt_total", MetricKind::kCounter, "", "blocks whose checksum or key did not match"},
    {"interlace_kv_block_missing_total", MetricKind::kCounter, "", "blocks that a tier could not give back"},
    {"interlace_refused_peers_total", MetricKind::kCounter, "port,cause",
     "connections between processes that were refused; port rank-N: by the transport of a rank, cause as in "
     "docs/contracts.md (Ports); port ranks: registrations, cause replayed or unconfirmed"},
    {"interlace_router_requests_total", MetricKind::kCounter, "replica", "requests that were sent to a replica"},
    {"interlace_router_taken_back_total", MetricKind::kCounter, "replica",
     "requests that a replica which was lost gave back, to go on elsewhere"},
    {"interlace_router_prompt_tokens_total", MetricKind::kCounter, "", "tokens of the prompts that were routed"},
    {"interlace_router_held_tokens_total", MetricKind::kCounter, "",
     "of these, those whose KV the chosen replica held or was about to, by the router's directory"},
    {"interlace_router_queued_tokens", MetricKind::kGauge, "replica",
     "prompt tokens that a replica must compute before the first tokens of requests that were sent there"},
    {"interlace_router_replicas_ready", MetricKind::kGauge, "", "replicas whose ranks are all there"},
    {"interlace_router_directory_blocks", MetricKind::kGauge, "", "blocks in the router's directory"},
    {"interlace_router_seconds", MetricKind::kHistogram, "", "what it took to name and look up a prompt's blocks"},
    {"interlace_router_hand_overs_total", MetricKind::kCounter, "reason",
     "requests that went from one replica to another; reason: lost, drain, or decode: their prompt was computed where "
     "prompts are (router.roles)"},
    {"interlace_router_hand_over_seconds", MetricKind::kHistogram, "",
     "from the last token of one replica to the first of the next"},
    {"interlace_router_parts_total", MetricKind::kCounter, "part",
     "with router.roles, what replicas were sent; part: prompt, answer, or whole"},
    {"interlace_router_whole_total", MetricKind::kCounter, "reason",
     "with router.roles, requests that one replica does alone; reason: short, held, one_token, not_shared, no_prefill, "
     "no_decode"},
    {"interlace_router_replica_draining", MetricKind::kGauge, "replica",
     "1: the replica is drained and gets nothing new"},
    {"interlace_telemetry_spans_total", MetricKind::kCounter, "result",
     "spans of ended requests; result: sent, or dropped since the queue was full or the collector did not take them"},
    {"interlace_leads", MetricKind::kGauge, "", "1: this coordinator leads its cluster, as the election says"},
    {"interlace_lead_epoch", MetricKind::kGauge, "", "of whoever leads, as far as it is known here"},
    {"interlace_election_failures_total", MetricKind::kCounter, "",
     "reads and writes of the leader's record that its store did not answer in time, or not well"},
    {"interlace_stale_messages_total", MetricKind::kCounter, "kind",
     "results refused for an old epoch or attempt; kind link: those that are not of their rank's session"},
};

using MetricLabels = std::initializer_list<std::pair<absl::string_view, absl::string_view>>;

// Upper bounds of the buckets of a histogram, in seconds; one more bucket holds what is above.
using MetricBuckets = std::array<double, 21>;
inline constexpr MetricBuckets kMetricBuckets = {1e-5,   2.5e-5, 5e-5, 1e-4,  2.5e-4, 5e-4, 0.001,
                                                 0.0025, 0.005,  0.01, 0.025, 0.05,   0.1,  0.25,
                                                 0.5,    1,      2.5,  5,     10,     30,   60};
// As vLLM and OpenTelemetry have them: to first token, between tokens, of whole requests, and of numbers of tokens.
inline constexpr MetricBuckets kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640};
inline constexpr MetricBuckets kTokenGapBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                                   0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40};
inline constexpr MetricBuckets kRequestBuckets = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                                  30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
inline constexpr MetricBuckets kTokenBuckets = {1,   2,   5,   1e1, 2e1, 5e1, 1e2, 2e2, 5e2, 1e3, 2e3,
                                                5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6};
// The same of one whose name ends in _ratio.
inline constexpr MetricBuckets kRatioBuckets = {0.1,  0.25, 0.5, 0.67, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1,
                                                1.02, 1.05, 1.1, 1.15, 1.25, 1.5, 2,    4,   10,   100};

// The series of one process. Owned by main; any thread. A hot path finds its series once, at construction, and keeps
// the handle: recording through it is a few atomic additions. Add, Set and Observe by name look the series up each time
// and are for cold paths. Handles must not outlive their Metrics. An unlisted name, a label that its row does not list
// and a handle of another kind are bugs of ours and abort.
//
//   Metrics::Counter tokens = metrics.counter("vllm:generation_tokens_total");
//   tokens.Add(3);
class Metrics {
  using Cell = std::atomic<double>;
  struct Buckets {
    const MetricBuckets& bounds;
    std::array<std::atomic<uint64_t>, kMetricBuckets.size() + 1> counts{};
    Cell sum{0};
  };

 public:
  // Never falls: an amount that is not positive adds nothing.
  class Counter {
   public:
    void Add(double amount = 1) const {
      if (amount > 0) cell_->fetch_add(amount, std::memory_order_relaxed);
    }

   private:
    friend class Metrics;
    explicit Counter(Cell* cell) : cell_(cell) {}
    Cell* cell_;
  };

  class Gauge {
   public:
    void Set(double value) const { cell_->store(value, std::memory_order_relaxed); }

   private:
    friend class Metrics;
    explicit Gauge(Cell* cell) : cell_(cell) {}
    Cell* cell_;
  };

  class Histogram {
   public:
    // `count` observations of the same value.
    void Observe(double value, uint64_t count = 1) const {
      const MetricBuckets& bounds = buckets_->bounds;
      size_t bucket = 0;
      while (bucket < bounds.size() && value > bounds[bucket]) ++bucket;
      buckets_->counts[bucket].fetch_add(count, std::memory_order_relaxed);
      buckets_->sum.fetch_add(value * static_cast<double>(count), std::memory_order_relaxed);
    }

   private:
    friend class Metrics;
    explicit Histogram(Buckets* buckets) : buckets_(buckets) {}
    Buckets* buckets_;
  };

  // `model_name` becomes a label on every series.
  explicit Metrics(std::string model_name);
  // A view of `all`: series that are recorded through it bear one label more, whatever their row lists, and a family
  // that has such series shows none of its own that nobody recorded. `all` outlives it. Total is that of its own.
  Metrics(Metrics& all, std::string label, std::string value);
  ~Metrics();

  // The series of these labels, made if it is new. Copies of a handle are the same series.
  Counter counter(absl::string_view name, MetricLabels labels = {});
  Gauge gauge(absl::string_view name, MetricLabels labels = {});
  Histogram histogram(absl::string_view name, MetricLabels labels = {});

  void Add(absl::string_view name, double amount = 1, MetricLabels labels = {}) { counter(name, labels).Add(amount); }
  void Set(absl::string_view name, double value, MetricLabels labels = {}) { gauge(name, labels).Set(value); }
  void Observe(absl::string_view name, double seconds, MetricLabels labels = {}) {
    histogram(name, labels).Observe(seconds);
  }
  // Of a gauge whose labels say something that changes: the series of these labels alone is left of it. Never of one to
  // whose series somebody holds a handle.
  void SetOnly(absl::string_view name, double value, MetricLabels labels);
  // Prometheus text format.
  std::string Text() const;
  // Sum over all label values of one series, of a histogram the number of observations; 0 if never recorded.
  double Total(absl::string_view name) const;

 private:
  using LabelValues = std::map<std::string, std::string>;
  struct Series {
    Cell value{0};                     // of a counter or gauge
    std::unique_ptr<Buckets> buckets;  // of a histogram
    bool asked_for = false;            // else it shows from the start, and nobody has recorded it
  };
  struct Family {
    explicit Family(const MetricRow& r) : row(r) {}
    const MetricRow& row;
    std::map<LabelValues, Series> series;  // its nodes stay where they are
    bool viewed = false;                   // some of them are a view's
  };

  using ViewLabel = std::pair<std::string, std::string>;
  Series& Find(absl::string_view name, MetricKind kind, MetricLabels labels);
  Series& FindIn(absl::string_view name, MetricKind kind, MetricLabels labels, const ViewLabel* view)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double TotalOf(absl::string_view name, const ViewLabel* view) const;

  Metrics* const all_ = nullptr;  // of a view
  const ViewLabel view_;
  const std::string model_name_;
  mutable absl::Mutex mutex_;
  std::vector<Family> families_;  // protected by mutex_: which series there are; their values are atomic
};

}  // namespace interlace
