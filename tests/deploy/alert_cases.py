"""For each alert: series under which it fires, how many of it do, and series under which it does not, an hour long at the most.

Values are promtool's: 'a+bxn' is a, a+b, ... n+1 times, one a minute. Every series has model_name besides.
"""
import dataclasses

_FAILED, _DONE = "interlace_requests_failed_total", "vllm:request_success_total"
_TARGET, _REFUSED = "interlace_slo_requests_total", "interlace_refused_peers_total"
_QUEUE, _RATIO = "vllm:request_queue_time_seconds_bucket", "interlace_step_prediction_ratio_bucket"


@dataclasses.dataclass(frozen=True)
class Case:
    alert: str
    loud: dict[str, str]
    quiet: dict[str, str]
    fire: int = 1
    minutes: int = 40


CASES = [
    Case("InterlaceAbsent", {"something_else": "1x60"}, {"interlace_ranks_ready": "0x60"}),
    Case("InterlaceRankMissing", {"interlace_ranks_ready": "2x10 1x50"}, {"interlace_ranks_ready": "2x60"}),
    Case("InterlaceRankMissing", {"interlace_ranks_ready": "0x60"}, {"interlace_ranks_ready": "1x39 2x20"}),
    Case("InterlaceReplicaFlapping", {"interlace_replica_losses_total": "0x28 3+1x30"}, {"interlace_replica_losses_total": "5x10 6x50"}),
    # All fail and none succeeds; one in a hundred; a client's own doing.
    Case("InterlaceRequestsFail", {_FAILED + '{code="INTERNAL"}': "0+60x60"},
         {_FAILED + '{code="INTERNAL"}': "0+60x60", _DONE + '{finished_reason="stop"}': "0+6600x60"}),
    Case("InterlaceRequestsFail", {_FAILED + '{code="UNAVAILABLE"}': "0+60x60", _DONE + '{finished_reason="stop"}': "0+4000x60"},
         {_FAILED + '{code="CANCELLED"}': "0+60x60", _FAILED + '{code="INTERNAL"}': "0x60", _DONE + '{finished_reason="stop"}': "0+60x60"}),
    Case("InterlaceRequestsQuarantined", {"interlace_requests_quarantined_total": "0x20 1x40"}, {"interlace_requests_quarantined_total": "3x60"}),
    Case("InterlaceKvCorrupt", {"interlace_kv_block_corrupt_total": "0x20 1x40"}, {"interlace_kv_block_corrupt_total": "7x60"}),
    Case("InterlaceTargetsMissed",
         {_TARGET + '{target="ttft",met="false"}': "0+2x60", _TARGET + '{target="ttft",met="true"}': "0+8x60",
          _TARGET + '{target="tpot",met="false"}': "0+6x60"},
         {_TARGET + '{target="ttft",met="false"}': "0+1x60", _TARGET + '{target="ttft",met="true"}': "0+19x60"}, fire=2),
    Case("InterlaceQueueLong", {_QUEUE + '{le="10"}': "0+5x60", _QUEUE + '{le="30"}': "0+10x60", _QUEUE + '{le="+Inf"}': "0+10x60"},
         {_QUEUE + '{le="10"}': "0+95x60", _QUEUE + '{le="30"}': "0+100x60", _QUEUE + '{le="+Inf"}': "0+100x60"}),
    Case("InterlaceQueueStuck", {"vllm:num_requests_waiting": "3x60", "interlace_steps_total": "900x60"},
         {"vllm:num_requests_waiting": "3x60", "interlace_steps_total": "0+5x60"}),
    Case("InterlaceShedding", {'interlace_shed_total{reason="predicted_ttft_miss"}': "0+1x60"},
         {'interlace_shed_total{reason="predicted_ttft_miss"}': "5x60"}),
    Case("InterlaceKvFull", {"vllm:kv_cache_usage_perc": "0.99x60", "vllm:num_requests_waiting": "4x60"},
         {"vllm:kv_cache_usage_perc": "0.99x60", "vllm:num_requests_waiting": "0x60"}),
    Case("InterlaceHostKvFull", {"vllm:kv_offload_cpu_cache_usage_perc": "0.99x60"}, {"vllm:kv_offload_cpu_cache_usage_perc": "0.9x60"}),
    Case("InterlaceParking", {"interlace_request_parks_total": "0+30x60", _DONE + '{finished_reason="stop"}': "0+10x60"},
         {"interlace_request_parks_total": "0+5x60", _DONE + '{finished_reason="stop"}': "0+10x60"}),
    Case("InterlaceRecomputing", {'interlace_recomputed_tokens_total{cause="parked"}': "0+20x60", "interlace_planned_tokens_total": "0+100x60"},
         {'interlace_recomputed_tokens_total{cause="parked"}': "0+5x60", "interlace_planned_tokens_total": "0+100x60"}),
    Case("InterlaceLayersStall", {"interlace_layer_stall_seconds_total": "0+20x60", "interlace_step_seconds_sum": "0+60x60"},
         {"interlace_layer_stall_seconds_total": "0+6x60", "interlace_step_seconds_sum": "0+60x60"}),
    Case("InterlaceTierLosesBlocks",
         {'interlace_kv_fetched_blocks_total{result="missing"}': "0+10x60", 'interlace_kv_fetched_blocks_total{result="ok"}': "0+90x60"},
         {'interlace_kv_fetched_blocks_total{result="missing"}': "0+1x60", 'interlace_kv_fetched_blocks_total{result="ok"}': "0+99x60"}),
    Case("InterlacePredictionOff", {_RATIO + '{le="2.5"}': "0+10x120", _RATIO + '{le="5"}': "0+100x120", _RATIO + '{le="+Inf"}': "0+100x120"},
         {_RATIO + '{le="1"}': "0+60x120", _RATIO + '{le="5"}': "0+100x120", _RATIO + '{le="+Inf"}': "0+100x120"}, minutes=90),
    Case("InterlacePeersRefused", {_REFUSED + '{port="rank-0",cause="wrong_key"}': "0+1x60", _REFUSED + '{port="ranks",cause="replayed"}': "0+1x60"},
         {_REFUSED + '{port="rank-0",cause="garbage"}': "0+9x60"}, fire=2),
    Case("InterlaceApiKeysStale", {"interlace_api_keys_stale": "1x60"}, {"interlace_api_keys_stale": "0x60"}),
    Case("InterlaceTlsStale", {"interlace_tls_stale": "1x60"}, {"interlace_tls_stale": "0x60"}),
    Case("InterlaceSpansDropped", {'interlace_telemetry_spans_total{result="dropped"}': "0+1x60"},
         {'interlace_telemetry_spans_total{result="dropped"}': "8x60", 'interlace_telemetry_spans_total{result="sent"}': "0+50x60"}),
]
