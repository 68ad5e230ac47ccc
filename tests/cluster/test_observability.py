"""Spans, logs and series of a cluster, as the tools that take them read them."""
import http.server
import json
import re
import threading

import openai
import pytest
import requests
from cluster import Cluster, wait_until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class Collector:
    """Takes traces as an OpenTelemetry collector does, and decodes them with the published messages."""

    def __init__(self):
        self.spans, self.resources, self.refuse = [], [], False
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                good = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                if not good or collector.refuse:
                    self.send_response(503 if good else 404)
                    self.end_headers()
                    return
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, trace: str):
        return [span for span in self.spans if span.trace_id.hex() == trace]

    def root(self, trace: str):
        return next((span for span in self.of(trace) if span.name == "llm_request"), None)


def attributes(span):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.server.shutdown()


@pytest.fixture(scope="module")
def cluster(collector):
    cluster = Cluster("--pp", "2", "--keep-layers", "10", "--host-kv", "256MiB", "--device-kv", "64MiB",
                      "--set", f"telemetry.otlp_endpoint={collector.address}", "--set", "telemetry.service_name=ours",
                      "--set", "log.format=json", "--set", "model.name=small")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def ask(cluster, headers=None, **body):
    return requests.post(cluster.http + "/v1/completions", timeout=60, headers=headers or {},
                         json={"model": "small", "prompt": "1 2 3 4 " * 60, "max_tokens": 12, "temperature": 0.5, "top_p": 0.9,
                               "ignore_eos": True, **body})


def test_one_trace_from_the_header_to_the_transfer(cluster, collector):
    assert ask(cluster, {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced"}).status_code == 200
    root = wait_until("the spans arrive", lambda: collector.root(TRACE))
    assert collector.resources[-1]["service.name"] == "ours"
    assert root.parent_span_id.hex() == PARENT and root.kind == Span.SPAN_KIND_SERVER and len(root.span_id) == 8
    of = attributes(root)
    assert of["gen_ai.request.id"] == "traced" and of["gen_ai.request.model"] == "small"
    assert of["gen_ai.request.max_tokens"] == 12 and of["gen_ai.usage.completion_tokens"] == 12
    assert of["gen_ai.usage.prompt_tokens"] > 200 and of["gen_ai.request.n"] == 1
    assert of["gen_ai.request.temperature"] == 0.5 and abs(of["gen_ai.request.top_p"] - 0.9) < 1e-6
    assert 0 < of["gen_ai.latency.time_to_first_token"] < of["gen_ai.latency.e2e"]
    assert of["gen_ai.latency.time_in_model_inference"] <= of["gen_ai.latency.e2e"]
    children = [span for span in collector.of(TRACE) if span.span_id != root.span_id]
    assert {"queue", "prefill", "decode", "kv.transfer"} <= {span.name for span in children}
    assert len({span.span_id for span in children}) == len(children)
    for span in children:
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    phases = [span for span in children if not span.name.startswith("kv.")]
    assert phases[0].start_time_unix_nano >= root.start_time_unix_nano  # the door reads and tokenises before
    for before, after in zip(phases, phases[1:]):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert phases[-1].end_time_unix_nano == root.end_time_unix_nano
    moved = [attributes(span) for span in children if span.name == "kv.transfer"]
    assert {m["interlace.stage"] for m in moved} == {0, 1}
    assert all(m["interlace.bytes_in"] + m["interlace.bytes_out"] > 0 and "-" in m["interlace.layers"] for m in moved)
    assert {"queued", "started"} <= {event.name for event in root.events}


def test_traces_of_their_own_and_none(cluster, collector):
    before = len(collector.spans)
    unsampled = "1" * 32
    assert ask(cluster, {"traceparent": f"00-{unsampled}-{PARENT}-00"}).status_code == 200
    assert ask(cluster, {"traceparent": "00-nonsense", "x-request-id": "own"}, n=2).status_code == 200
    own = wait_until("both choices arrive", lambda: (lambda roots: roots if len(roots) == 2 else None)(
        [s for s in collector.spans[before:] if s.name == "llm_request" and attributes(s)["gen_ai.request.id"].startswith("own")]))
    assert own[0].trace_id == own[1].trace_id and own[0].parent_span_id == b""
    assert collector.root(unsampled) is None


def test_errors_are_marked(cluster, collector):
    trace = "2" * 32
    late = ask(cluster, {"traceparent": f"00-{trace}-{PARENT}-01"}, max_tokens=2000, deadline_ms=400)
    assert late.status_code == 504
    root = wait_until("the span of the error arrives", lambda: collector.root(trace))
    assert root.status.code == Status.STATUS_CODE_ERROR and "deadline" in root.status.message


def test_a_collector_that_refuses_costs_spans_alone(cluster, collector):
    collector.refuse = True
    dropped = cluster.metric("interlace_telemetry_spans_total", 'result="dropped"')
    assert ask(cluster).status_code == 200
    wait_until("what is refused is counted", lambda: cluster.metric("interlace_telemetry_spans_total", 'result="dropped"') > dropped)
    collector.refuse = False
    trace = "3" * 32
    assert ask(cluster, {"traceparent": f"00-{trace}-{PARENT}-01"}).status_code == 200
    wait_until("spans arrive again", lambda: collector.root(trace))


def test_logs_are_json_with_request_ids_and_stats(cluster):
    assert ask(cluster, {"x-request-id": "logged"}).status_code == 200
    lines = lambda: (cluster.state / "coordinator.log").read_text().strip().split("\n")
    def find(condition):
        return next((entry for entry in map(json.loads, lines()) if condition(entry)), None)
    entry = wait_until("the request is logged", lambda: find(lambda e: e.get("request_id") == "logged"))
    assert entry["msg"] == "http" and entry["level"] == "info" and entry["path"] == "/v1/completions"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", entry["ts"])
    stats = wait_until("a line of stats", lambda: find(lambda e: e["msg"] == "stats"), 30)
    assert float(stats["generation_tokens_per_s"]) >= 0 and {"running", "waiting", "parked", "kv_usage_percent",
                                                            "prefix_hit_percent", "prompt_tokens_per_s"} <= set(stats)


# What routers and load generators read of a server like vLLM (inference gateway, llm-d, inference-perf).
CONTRACT = """num_requests_waiting num_requests_running kv_cache_usage_perc cache_config_info prompt_tokens_total
generation_tokens_total request_success_total num_preemptions_total prefix_cache_hits_total prefix_cache_queries_total
external_prefix_cache_hits_total external_prefix_cache_queries_total prompt_tokens_cached_total e2e_request_latency_seconds
time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds request_queue_time_seconds
request_prefill_time_seconds request_decode_time_seconds request_inference_time_seconds request_prompt_tokens
request_generation_tokens request_max_num_generation_tokens request_params_n request_params_max_tokens
iteration_tokens_total request_prefill_kv_computed_tokens kv_offload_total_bytes_total kv_offload_total_time_total
kv_offload_cpu_cache_usage_perc""".split()


def test_series_that_others_read(cluster):
    client = openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)
    client.completions.create(model="small", prompt="1 2 3", max_tokens=3, temperature=0, n=2, extra_body={"ignore_eos": True})
    text = requests.get(cluster.http + "/metrics", timeout=10).text
    for name in CONTRACT:
        assert re.search(rf"^vllm:{name}(_count)?{{", text, re.M), f"{name} is missing"
    info = re.search(r"^vllm:cache_config_info{(.*)} 1$", text, re.M).group(1)
    assert 'block_size="' in info and 'num_gpu_blocks="' in info and 'model_name="small"' in info
    assert cluster.metric("vllm:request_params_n_sum") >= 2
    assert 0 < cluster.metric("vllm:request_generation_tokens_sum") <= cluster.metric("vllm:generation_tokens_total")
