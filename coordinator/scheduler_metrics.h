// SchedulerMetrics: the series that the scheduler records, found once.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/metrics.h"
#include "coordinator/speculation.h"

namespace interlace {

// Of one drafter.
struct DraftMetrics {
  DraftMetrics(Metrics& all, Drafter drafter)
      : drafted(all.counter("interlace_draft_tokens_total", {{"drafter", DrafterName(drafter)}})),
        accepted(all.counter("interlace_draft_tokens_accepted_total", {{"drafter", DrafterName(drafter)}})) {}
  Metrics::Counter drafted, accepted;
};

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
        prompt_cached(all.counter("vllm:prompt_tokens_cached_total")),
        external_queries(all.counter("vllm:external_prefix_cache_queries_total")),
        external_hits(all.counter("vllm:external_prefix_cache_hits_total")),
        offload_in(all.counter("vllm:kv_offload_total_bytes_total", {{"transfer_type", "CPU_to_GPU"}})),
        offload_out(all.counter("vllm:kv_offload_total_bytes_total", {{"transfer_type", "GPU_to_CPU"}})),
        offload_time_in(all.counter("vllm:kv_offload_total_time_total", {{"transfer_type", "CPU_to_GPU"}})),
        offload_time_out(all.counter("vllm:kv_offload_total_time_total", {{"transfer_type", "GPU_to_CPU"}})),
        host_usage(all.gauge("vllm:kv_offload_cpu_cache_usage_perc")),
        parks(all.counter("interlace_request_parks_total")),
        promotions(all.counter("interlace_request_promotions_total")),
        quarantined(all.counter("interlace_requests_quarantined_total")),
        steps(all.counter("interlace_steps_total")),
        planned_tokens(all.counter("interlace_planned_tokens_total")),
        drafts{{all, Drafter::kNgram}, {all, Drafter::kSelf}, {all, Drafter::kModel}},
        advised{all.counter("interlace_skip_advice_total", {{"source", "static"}}),
                all.counter("interlace_skip_advice_total", {{"source", "entry"}}),
                all.counter("interlace_skip_advice_total", {{"source", "trial"}})},
        bounded_skipped(all.counter("interlace_bounded_steps_total", {{"kind", "skipped"}})),
        bounded_audited(all.counter("interlace_bounded_steps_total", {{"kind", "audited"}})),
        bounded_whole(all.counter("interlace_bounded_steps_total", {{"kind", "whole"}})),
        bounded_saved(all.counter("interlace_bounded_sublayers_saved_total")),
        bounded_agreed(all.counter("interlace_bounded_audits_total", {{"result", "agreed"}})),
        bounded_differed(all.counter("interlace_bounded_audits_total", {{"result", "differed"}})),
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
        queue(all.histogram("vllm:request_queue_time_seconds")),
        prefill_time(all.histogram("vllm:request_prefill_time_seconds")),
        decode_time(all.histogram("vllm:request_decode_time_seconds")),
        inference_time(all.histogram("vllm:request_inference_time_seconds")),
        per_token(all.histogram("vllm:request_time_per_output_token_seconds")),
        prompt_length(all.histogram("vllm:request_prompt_tokens")),
        answer_length(all.histogram("vllm:request_generation_tokens")),
        longest_answer(all.histogram("vllm:request_max_num_generation_tokens")),
        max_tokens(all.histogram("vllm:request_params_max_tokens")),
        choices(all.histogram("vllm:request_params_n")),
        prompt_computed(all.histogram("vllm:request_prefill_kv_computed_tokens")),
        iteration_tokens(all.histogram("vllm:iteration_tokens_total")) {}

  Metrics& registry;  // for what happens seldom, by name
  Metrics::Gauge running, waiting, usage, blocks_held, blocks_cached, ranks_ready;
  Metrics::Counter prompt_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits, prompt_cached,
      external_queries, external_hits, offload_in, offload_out, offload_time_in, offload_time_out;
  Metrics::Gauge host_usage;
  Metrics::Counter parks, promotions, quarantined, steps, planned_tokens;
  DraftMetrics drafts[kDrafters - 1];
  const DraftMetrics& draft(Drafter drafter) const { return drafts[static_cast<size_t>(drafter) - 1]; }
  Metrics::Counter advised[3];  // by SkipSource
  Metrics::Counter bounded_skipped, bounded_audited, bounded_whole, bounded_saved, bounded_agreed, bounded_differed;
  Metrics::Counter losses, probed_blocks, fetched_ok, fetched_missing, bytes_in, bytes_out, busy_in, busy_out, stall,
      corrupt, missing;
  Metrics::Histogram step_seconds, rank_gap, step_compute, step_predicted, step_ratio, ratio_in, ratio_out, ratio_below,
      first_token, between_tokens, total, queue, prefill_time, decode_time, inference_time, per_token, prompt_length,
      answer_length, longest_answer, max_tokens, choices, prompt_computed, iteration_tokens;
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
