// SchedulerMetrics: the series that the scheduler records, found once.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/metrics.h"

namespace interlace {

// Handles; owned by the Scheduler. The Metrics outlive it.
struct SchedulerMetrics {
  explicit SchedulerMetrics(Metrics& all)
      : registry(all),
        running(all.gauge("vllm:num_requests_running")),
        waiting(all.gauge("vllm:num_requests_waiting")),
        usage(all.gauge("vllm:kv_cache_usage_perc")),
        blocks_held(all.gauge("interlace_kv_blocks_held")),
        blocks_cached(all.gauge("interlace_kv_blocks_cached")),
        ranks_ready(all.gauge("interlace_ranks_ready")),
        prompt_tokens(all.counter("vllm:prompt_tokens_total")),
        generation_tokens(all.counter("vllm:generation_tokens_total")),
        preemptions(all.counter("vllm:num_preemptions_total")),
        prefix_queries(all.counter("vllm:prefix_cache_queries_total")),
        prefix_hits(all.counter("vllm:prefix_cache_hits_total")),
        parks(all.counter("interlace_request_parks_total")),
        promotions(all.counter("interlace_request_promotions_total")),
        quarantined(all.counter("interlace_requests_quarantined_total")),
        steps(all.counter("interlace_steps_total")),
        planned_tokens(all.counter("interlace_planned_tokens_total")),
        losses(all.counter("interlace_replica_losses_total")),
        probed_blocks(all.counter("interlace_kv_probe_blocks_total")),
        fetched_ok(all.counter("interlace_kv_fetched_blocks_total", {{"result", "ok"}})),
        fetched_missing(all.counter("interlace_kv_fetched_blocks_total", {{"result", "missing"}})),
        bytes_in(all.counter("interlace_transfer_bytes_total", {{"direction", "in"}})),
        bytes_out(all.counter("interlace_transfer_bytes_total", {{"direction", "out"}})),
        busy_in(all.counter("interlace_transfer_busy_seconds_total", {{"direction", "in"}})),
        busy_out(all.counter("interlace_transfer_busy_seconds_total", {{"direction", "out"}})),
        stall(all.counter("interlace_layer_stall_seconds_total")),
        corrupt(all.counter("interlace_kv_block_corrupt_total")),
        missing(all.counter("interlace_kv_block_missing_total")),
        step_seconds(all.histogram("interlace_step_seconds")),
        rank_gap(all.histogram("interlace_rank_gap_seconds")),
        step_compute(all.histogram("interlace_step_compute_seconds")),
        step_predicted(all.histogram("interlace_step_predicted_seconds")),
        step_ratio(all.histogram("interlace_step_prediction_ratio")),
        ratio_in(all.histogram("interlace_transfer_prediction_ratio", {{"route", "in"}})),
        ratio_out(all.histogram("interlace_transfer_prediction_ratio", {{"route", "out"}})),
        ratio_below(all.histogram("interlace_transfer_prediction_ratio", {{"route", "below"}})),
        first_token(all.histogram("vllm:time_to_first_token_seconds")),
        between_tokens(all.histogram("vllm:inter_token_latency_seconds")),
        total(all.histogram("vllm:e2e_request_latency_seconds")),
        queue(all.histogram("vllm:request_queue_time_seconds")) {}

  Metrics& registry;  // for what happens seldom, by name
  Metrics::Gauge running, waiting, usage, blocks_held, blocks_cached, ranks_ready;
  Metrics::Counter prompt_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits, parks, promotions,
      quarantined, steps, planned_tokens, losses, probed_blocks, fetched_ok, fetched_missing, bytes_in, bytes_out,
      busy_in, busy_out, stall, corrupt, missing;
  Metrics::Histogram step_seconds, rank_gap, step_compute, step_predicted, step_ratio, ratio_in, ratio_out, ratio_below,
      first_token, between_tokens, total, queue;
};

// What the ranks of one stage say of their memory with each result. Of a formed replica.
struct StageMetrics {
  StageMetrics(Metrics& all, absl::string_view stage, const std::vector<std::string>& tier_names)
      : slots(all.gauge("interlace_kv_arena_slots_used", {{"stage", stage}})),
        frames(all.gauge("interlace_kv_frames_used", {{"stage", stage}})) {
    for (const std::string& tier : tier_names) {
      tiers.push_back({all.gauge("interlace_kv_tier_blocks", {{"stage", stage}, {"tier", tier}}),
                       all.gauge("interlace_kv_tier_bytes", {{"stage", stage}, {"tier", tier}})});
    }
  }
  struct Tier {
    Metrics::Gauge blocks, bytes;
  };
  Metrics::Gauge slots, frames;
  std::vector<Tier> tiers;
};

}  // namespace interlace
