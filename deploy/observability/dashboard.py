"""The Grafana dashboard: a panel for each metric of the catalogue, in sections; what no section names is in the last one."""
import json

import catalogue

# Title, then metrics in their order. A name ends with * for all that begin so.
SECTIONS = [
    ("Requests", ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:request_success_total", "interlace_requests_failed_total",
                  "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "interlace_ranks_ready", "interlace_replica_losses_total"]),
    ("Latency", ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:request_time_per_output_token_seconds",
                 "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds",
                 "vllm:request_decode_time_seconds", "vllm:request_inference_time_seconds"]),
    ("Targets", ["interlace_slo_*", "interlace_shed_total", "interlace_request_parks_total", "interlace_request_promotions_total",
                 "vllm:num_preemptions_total"]),
    ("KV cache", ["vllm:kv_cache_usage_perc", "vllm:kv_offload_cpu_cache_usage_perc", "interlace_kv_arena_slots_used", "interlace_kv_frames_used",
                  "interlace_kv_blocks_*", "interlace_kv_tier_*", "vllm:prefix_cache_*", "vllm:prompt_tokens_cached_total",
                  "vllm:external_prefix_cache_*", "interlace_kv_probe_blocks_total", "interlace_kv_fetched_blocks_total", "interlace_kv_block_*"]),
    ("Transfers", ["interlace_transfer_*", "vllm:kv_offload_*", "interlace_layer_stall_seconds_total"]),
    ("Steps", ["interlace_step*", "interlace_rank_gap_seconds", "interlace_planned_tokens_total", "interlace_recomputed_tokens_total",
               "vllm:iteration_tokens_total"]),
    ("Doors and peers", ["interlace_door_refusals_total", "interlace_tenant_tokens_total", "interlace_api_keys_stale", "interlace_tls_stale",
                         "interlace_refused_peers_total", "interlace_stale_messages_total", "interlace_telemetry_spans_total"]),
]
_UNITS = [("_seconds", "s"), ("_seconds_total", "s"), ("_time_total", "s"), ("_bytes", "bytes"), ("_bytes_total", "bytes"), ("_perc", "percentunit")]
_SELECTED = 'model_name=~"$model"'


def _unit(metric: catalogue.Metric) -> str:
    found = next((unit for ending, unit in _UNITS if metric.name.endswith(ending)), "short")
    if metric.kind != "counter":
        return found
    return {"bytes": "Bps", "s": "percentunit"}.get(found, "cps")  # seconds a second are a share


def queries(metric: catalogue.Metric) -> list[tuple[str, str]]:
    """Expressions of a panel and the legends of their lines."""
    labels = [label for label in metric.labels if label != "le"]
    by = f"sum by ({', '.join(['model_name', *labels])}) "
    legend = " ".join(["{{model_name}}", *(f"{{{{{label}}}}}" for label in labels)])
    if metric.kind == "gauge":
        return [(f"{by}({metric.name}{{{_SELECTED}}})" if metric.name.endswith(("_bytes", "_blocks")) else f"{metric.name}{{{_SELECTED}}}", legend)]
    if metric.kind == "counter":
        return [(f"{by}(rate({metric.name}{{{_SELECTED}}}[$__rate_interval]))", legend)]
    within = f"sum by ({', '.join(['le', 'model_name', *labels])}) (rate({metric.name}_bucket{{{_SELECTED}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {within})", f"p{share * 100:.0f} {legend}") for share in (0.5, 0.95, 0.99)]


def _panel(number: int, metric: catalogue.Metric, x: int, y: int) -> dict:
    source = {"type": "prometheus", "uid": "$source"}
    return {"id": number, "type": "timeseries", "title": metric.name, "description": metric.meaning, "datasource": source,
            "gridPos": {"x": x, "y": y, "w": 8, "h": 7},
            "fieldConfig": {"defaults": {"unit": _unit(metric), "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
            "targets": [{"refId": chr(ord("A") + i), "datasource": source, "expr": expression, "legendFormat": legend}
                        for i, (expression, legend) in enumerate(queries(metric))]}


def sections(metrics: dict[str, catalogue.Metric]) -> list[tuple[str, list[catalogue.Metric]]]:
    """Each metric once. ValueError: a section names what no process exports."""
    left = dict(metrics)
    found = []
    for title, names in SECTIONS:
        of_section = []
        for name in names:
            matching = [m for m in metrics if m == name or (name.endswith("*") and m.startswith(name[:-1]))]
            if not matching:
                raise ValueError(f"dashboard.py, section '{title}': {name} is not in common/metrics.h")
            of_section += [left.pop(m) for m in matching if m in left]
        found.append((title, of_section))
    return [*found, ("Others", list(left.values()))]


def dashboard(metrics: dict[str, catalogue.Metric]) -> str:
    panels, y = [], 0
    for title, of_section in sections(metrics):
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        for place, metric in enumerate(of_section):
            panels.append(_panel(len(panels) + 1, metric, 8 * (place % 3), y + 7 * (place // 3)))
        y += 7 * ((len(of_section) + 2) // 3)
    variables = [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                 {"name": "model", "label": "model", "type": "query", "datasource": {"type": "prometheus", "uid": "$source"},
                  "query": "label_values(interlace_ranks_ready, model_name)", "includeAll": True, "multi": True,
                  "current": {"text": "All", "value": "$__all"}, "refresh": 2}]
    page = {"uid": "interlace", "title": "Interlace", "tags": ["interlace"], "schemaVersion": 39, "version": 1, "editable": True,
            "time": {"from": "now-1h", "to": "now"}, "refresh": "10s", "templating": {"list": variables}, "panels": panels}
    return json.dumps(page, indent=1) + "\n"
