"""The alerts, as a table. What to do about each stands in docs/operations.md, under its name.

Expressions may name what common/metrics.h lists, and nothing else (catalogue.faults): a metric that is renamed there fails
make.py. Sums are over the processes of one model; an alert that tells of a single process keeps its instance.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Alert:
    name: str
    severity: str  # critical: somebody waits for an answer now; warning: somebody will
    lasts: str  # how long the expression must hold
    expression: str
    summary: str


ALERTS = [
    Alert("InterlaceAbsent", "critical", "2m", "absent(interlace_ranks_ready)",
          "no coordinator is scraped"),
    Alert("InterlaceRankMissing", "critical", "1m",
          "interlace_ranks_ready < max_over_time(interlace_ranks_ready[1h]) or interlace_ranks_ready == 0",
          "only {{ $value }} ranks are there; the replica serves nobody without the others"),
    Alert("InterlaceReplicaFlapping", "critical", "0m",
          "increase(interlace_replica_losses_total[15m]) > 3",
          "the replica lost ranks {{ $value | printf \"%.0f\" }} times within 15 minutes"),
    Alert("InterlaceRequestsFail", "critical", "5m",
          'sum by (model_name) (rate(interlace_requests_failed_total{code=~"INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS"}[5m]))\n'
          "/ sum by (model_name) (rate(vllm:request_success_total[5m]) or rate(interlace_requests_failed_total[5m])) > 0.01",
          "{{ $value | humanizePercentage }} of requests end with an error of ours"),
    Alert("InterlaceRequestsQuarantined", "critical", "0m",
          "increase(interlace_requests_quarantined_total[1h]) > 0",
          "a request was ended since ranks died each time that it ran"),
    Alert("InterlaceKvCorrupt", "critical", "0m",
          "increase(interlace_kv_block_corrupt_total[1h]) > 0",
          "{{ $value | printf \"%.0f\" }} KV blocks did not match their checksums and were computed again"),
    Alert("InterlaceTargetsMissed", "warning", "10m",
          'sum by (model_name, target) (rate(interlace_slo_requests_total{met="false"}[10m]))\n'
          "/ sum by (model_name, target) (rate(interlace_slo_requests_total[10m])) > 0.1",
          "{{ $value | humanizePercentage }} of requests miss their {{ $labels.target }}"),
    Alert("InterlaceQueueLong", "warning", "5m",
          "histogram_quantile(0.9, sum by (le, model_name) (rate(vllm:request_queue_time_seconds_bucket[5m]))) > 10",
          "one in ten requests waits more than {{ $value | printf \"%.0f\" }} s before it starts"),
    Alert("InterlaceQueueStuck", "critical", "3m",
          "sum by (model_name) (vllm:num_requests_waiting) > 0\n"
          "unless sum by (model_name) (rate(interlace_steps_total[3m])) > 0",
          "{{ $value }} requests wait and no step is done"),
    Alert("InterlaceShedding", "warning", "10m",
          "sum by (model_name, reason) (rate(interlace_shed_total[10m])) > 0",
          "requests are refused since they would miss a target ({{ $labels.reason }})"),
    Alert("InterlaceKvFull", "warning", "15m",
          "vllm:kv_cache_usage_perc > 0.95 and vllm:num_requests_waiting > 0",
          "device KV is {{ $value | humanizePercentage }} full while requests wait"),
    Alert("InterlaceHostKvFull", "warning", "15m",
          "vllm:kv_offload_cpu_cache_usage_perc > 0.98",
          "host frames are {{ $value | humanizePercentage }} in use; layers cannot leave the device"),
    Alert("InterlaceParking", "warning", "15m",
          "sum by (model_name) (rate(interlace_request_parks_total[15m]))\n"
          "/ sum by (model_name) (rate(vllm:request_success_total[15m])) > 1",
          "a request is set aside {{ $value | printf \"%.1f\" }} times in the mean before it ends"),
    Alert("InterlaceRecomputing", "warning", "15m",
          "sum by (model_name) (rate(interlace_recomputed_tokens_total[15m]))\n"
          "/ sum by (model_name) (rate(interlace_planned_tokens_total[15m])) > 0.1",
          "{{ $value | humanizePercentage }} of the tokens computed had been computed before"),
    Alert("InterlaceLayersStall", "warning", "10m",
          "sum by (model_name) (rate(interlace_layer_stall_seconds_total[10m]))\n"
          "/ sum by (model_name) (rate(interlace_step_seconds_sum[10m])) > 0.2",
          "{{ $value | humanizePercentage }} of the time of steps is waiting for KV"),
    Alert("InterlaceTierLosesBlocks", "warning", "15m",
          'sum by (model_name) (rate(interlace_kv_fetched_blocks_total{result="missing"}[15m]))\n'
          "/ sum by (model_name) (rate(interlace_kv_fetched_blocks_total[15m])) > 0.05",
          "{{ $value | humanizePercentage }} of the blocks that a tier said it held did not come"),
    Alert("InterlacePredictionOff", "warning", "30m",
          "histogram_quantile(0.5, sum by (le, model_name) (rate(interlace_step_prediction_ratio_bucket[30m]))) > 2",
          "steps take {{ $value | printf \"%.1f\" }} times what the cost model says"),
    Alert("InterlacePeersRefused", "warning", "5m",
          'sum by (model_name, port, cause) (rate(interlace_refused_peers_total{cause=~"wrong_key|tampered|order|replayed"}[5m])) > 0',
          "connections to {{ $labels.port }} are refused: {{ $labels.cause }}"),
    Alert("InterlaceApiKeysStale", "warning", "5m", "interlace_api_keys_stale == 1",
          "the file of API keys cannot be used; what was read before counts"),
    Alert("InterlaceTlsStale", "warning", "5m", "interlace_tls_stale == 1",
          "the files of TLS cannot be used; the old certificate is shown until it expires"),
    Alert("InterlaceSpansDropped", "warning", "15m",
          'sum by (model_name) (rate(interlace_telemetry_spans_total{result="dropped"}[15m])) > 0',
          "spans of requests do not reach the collector"),
]
