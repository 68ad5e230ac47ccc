"""What an operator does with a running cluster: drain and resume, status, doctor."""
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request

import openai
import pytest

from cluster import BIN, Cluster

LONG = {"prompt": "1 2 3", "max_tokens": 7000, "temperature": 0, "stream": True, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def cluster():
    running = Cluster("-pp", "2", "--max-model-len", "8K", "--served-model-name", "small", "--max-num-seqs", "8", "--kvstore")
    yield running
    running.await_nothing_held()
    running.stop()


def tool(*words: str, status: int = 0) -> str:
    done = subprocess.run([str(BIN / "interlace"), *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def ask(cluster):
    return openai.OpenAI(base_url=cluster.http + "/v1", api_key="none", max_retries=0)


def code_of(cluster, path: str) -> int:
    try:
        return urllib.request.urlopen(cluster.http + path, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_flags_of_vllm_are_settings(cluster):
    model = ask(cluster).models.list().data[0]
    assert model.id == "small" and model.max_model_len == 8192
    with pytest.raises(openai.BadRequestError) as refused:
        ask(cluster).completions.create(model="small", prompt="1 2 3", max_tokens=8192)
    assert "8192" in refused.value.message
    done = subprocess.run([str(BIN / "interlace"), "serve", "x", "--gpu-memory-utilization", "0.9"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode != 0 and "--gpu-memory-utilization" in done.stderr and "--device-kv" in done.stderr
    done = subprocess.run([str(BIN / "interlace"), "serve", "x", "--max_model_len", "many"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode != 0 and "--max-model-len" in done.stderr and "25.6k" in done.stderr


def test_a_stream_outlives_a_drain_and_new_requests_do_not(cluster):
    client = ask(cluster)
    stream = client.completions.create(model="small", **{**LONG, "max_tokens": 300})
    texts = [next(stream).choices[0].text]
    assert "draining: 1 request left" in tool("drain", "--url", cluster.http, "--no-wait")
    assert code_of(cluster, "/ready") == 503 and cluster.metric("interlace_draining") == 1
    with pytest.raises(openai.InternalServerError) as refused:
        client.completions.create(model="small", prompt="1 2 3", max_tokens=4)
    assert refused.value.status_code == 503 and refused.value.code == "server_draining"
    assert int(refused.value.response.headers["retry-after"]) >= 1 and "date" in refused.value.response.headers
    page = tool("status", "--url", cluster.http, status=1)
    assert re.search(r"state +draining: 1 request left", page), page
    waits = threading.Thread(target=tool, args=("drain", "--url", cluster.http))
    waits.start()
    last = None
    for chunk in stream:
        last = chunk
        texts.append(chunk.choices[0].text if chunk.choices else "")
    assert last.choices[0].finish_reason == "length" and len(texts) >= 300
    waits.join(60)
    assert not waits.is_alive()
    assert tool("drain", "--url", cluster.http, "--resume") == "open: new requests are taken\n"
    assert client.completions.create(model="small", prompt="1 2 3", max_tokens=4).usage.completion_tokens == 4


def test_what_the_timeout_of_a_drain_cuts_ends_with_an_error_event(cluster):
    stream = ask(cluster).completions.create(model="small", **LONG)
    next(stream)
    try:
        assert "1 cut so far" in tool("drain", "--url", cluster.http, "--timeout", "100ms", status=1)
        with pytest.raises(openai.APIError) as cut:
            for _ in stream:
                pass
        assert cut.value.code == "server_stopping" and "stopped before" in cut.value.message
        cluster.await_nothing_held()
    finally:
        tool("drain", "--url", cluster.http, "--resume")
    assert code_of(cluster, "/ready") == 200


def test_status_of_a_cluster_that_serves(cluster):
    ask(cluster).completions.create(model="small", prompt="1 2 3", max_tokens=8)
    page = tool("status", "--url", cluster.http)
    for part in ("ready", "small, context 8192 tokens", "2 of 2 ready, 30 layers in 2 stages", "device", "host"):
        assert part in page, page
    assert "\x1b" not in page
    state = json.loads(tool("status", "--url", cluster.http, "--json"))
    assert state["state"] == "ok" and state["ranks_ready"] == 2 and state["requests"]["finished"] >= 1
    assert {place["tier"] for place in state["kv"]} >= {"device", "host"}


def test_doctor_of_a_cluster_that_serves(cluster):
    told = json.loads(tool("doctor", "--url", cluster.http, "--json"))
    findings = {finding["check"]: finding for finding in told["findings"]}
    assert told["fail"] == 0
    for check in ("version", "ranks", "clock", "room of stages", "blocks of tiers", "losses", "files"):
        assert findings[check]["verdict"] == "ok", findings[check]
    assert "2 of 2 ready" in findings["ranks"]["found"]


def test_doctor_of_this_machine(cluster, tmp_path):
    # A server listens on the door's port, which is why the check of ports fails.
    port = cluster.http.rsplit(":", 1)[1]
    done = subprocess.run([str(BIN / "interlace"), "doctor", "--json", "--rocksdb", str(tmp_path), "--set",
                           f"server.http_port={port}", "--set", "server.grpc_port=0"],
                          capture_output=True, text=True, timeout=120)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1 and findings["port"]["verdict"] == "fail" and port in findings["port"]["found"]
    assert "GB/s" in findings["memory bandwidth"]["found"] or "MB/s" in findings["memory bandwidth"]["found"]
    assert "writes" in findings["disk bandwidth"]["found"]
    assert "tcp" in findings["ucx transports"]["found"]
    assert not list(tmp_path.iterdir())
    table = tool("doctor", "--quick", "--set", "server.http_port=0", "--set", "server.grpc_port=0")
    assert "bandwidth" not in table and re.search(r"\d+ ok, \d+ warn, 0 fail\n$", table)


def test_nobody_there_is_said_so():
    for command in ("status", "doctor", "drain"):
        done = subprocess.run([str(BIN / "interlace"), command, "--url", "http://127.0.0.1:1"], capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 1 and "127.0.0.1:1" in done.stderr, done.stderr
