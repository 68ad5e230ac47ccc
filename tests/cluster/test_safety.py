"""Keys, limits, TLS, and the end of a server, against real clients."""
import hashlib
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import anthropic
import grpc
import httpx
import httpx2  # what the package anthropic is made of
import openai
import pytest

from cluster import Cluster, wait_until

TENANTS = {"tenants": [
    {"name": "acme", "keys": ["sk-acme"]},
    {"name": "small", "keys": ["sha256:" + hashlib.sha256(b"sk-small").hexdigest()], "requests_per_minute": 2},
    {"name": "ops", "keys": ["sk-ops"], "operator": True}]}
ASK = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def make_certificates(folder):
    """An authority, and a certificate of the doors that it signed."""
    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority",
        "-days", "2")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "door.key", "-out", "door.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    run("x509", "-req", "-in", "door.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "door.pem",
        "-days", "2", "-extfile", "names")


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safe")
    make_certificates(folder)
    keys = folder / "keys.json"
    keys.write_text(json.dumps(TENANTS))
    cluster = Cluster("--set", "model.name=small", "--set", f"server.api_keys={keys}", "--set", f"server.tls_cert={folder}/door.pem",
                      "--set", f"server.tls_key={folder}/door.key")
    cluster.folder_of_keys, cluster.keys = folder, keys
    cluster.https = cluster.http.replace("http://", "https://")
    cluster.trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    yield cluster
    cluster.stop()


def openai_client(safe, key):
    return openai.OpenAI(base_url=safe.https + "/v1", api_key=key, max_retries=0, http_client=httpx.Client(verify=safe.trust))


def get(safe, path, key=None):
    request = urllib.request.Request(safe.https + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    return urllib.request.urlopen(request, timeout=10, context=safe.trust).read().decode()


def test_openai_over_tls_with_a_key(safe):
    client = openai_client(safe, "sk-acme")
    assert client.chat.completions.create(**ASK).usage.completion_tokens > 0
    assert sum(1 for _ in client.chat.completions.create(**ASK, stream=True)) > 2
    assert [model.id for model in client.models.list()] == ["small"]
    with pytest.raises(openai.AuthenticationError) as refused:
        openai_client(safe, "sk-wrong").chat.completions.create(**ASK)
    assert refused.value.code == "invalid_api_key"


def test_anthropic_over_tls_with_a_key(safe):
    client = anthropic.Anthropic(base_url=safe.https, api_key="sk-acme", max_retries=0, http_client=httpx2.Client(verify=safe.trust))
    assert client.messages.create(**ASK).usage.output_tokens > 0
    with client.messages.stream(**ASK) as stream:
        assert isinstance("".join(stream.text_stream), str)
    wrong = anthropic.Anthropic(base_url=safe.https, api_key="sk-wrong", max_retries=0, http_client=httpx2.Client(verify=safe.trust))
    with pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(**ASK)


def test_a_limit_is_told_as_openai_does(safe):
    client = openai_client(safe, "sk-small")
    answer = client.chat.completions.with_raw_response.create(**ASK)
    assert answer.headers["x-ratelimit-limit-requests"] == "2" and answer.headers["x-ratelimit-remaining-requests"] == "1"
    client.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**ASK)
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 30
    assert refused.value.code == "rate_limit_exceeded"
    assert 'interlace_door_refusals_total{model_name="small",reason="requests",tenant="small"}' in get(safe, "/metrics")


def test_grpc_over_tls_with_a_key(safe):
    from interlace_client.client import pb, rpc  # the generated messages
    credentials = grpc.ssl_channel_credentials((safe.folder_of_keys / "ca.pem").read_bytes())
    with grpc.secure_channel(safe.grpc, credentials) as channel:
        stub = rpc.InferenceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetModel(pb.GetModelRequest(), timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert stub.GetModel(pb.GetModelRequest(), timeout=20, metadata=[("authorization", "Bearer sk-acme")]).id == "small"


def test_files_are_read_again_on_sighup(safe):
    changed = json.loads(json.dumps(TENANTS))
    changed["tenants"].append({"name": "new", "keys": ["sk-new"]})

    def works(key):
        try:
            return "small" in get(safe, "/v1/models", key)
        except urllib.error.HTTPError as error:
            assert error.code == 401
            return False

    def stale():
        return "interlace_api_keys_stale{model_name=\"small\"} 1" in get(safe, "/metrics")

    assert not works("sk-new")
    safe.keys.write_text("{")
    safe.process.send_signal(signal.SIGHUP)
    wait_until("the metric tells of the broken file", stale)
    assert works("sk-acme") and safe.process.poll() is None
    safe.keys.write_text(json.dumps(changed))
    safe.process.send_signal(signal.SIGHUP)
    wait_until("the new key works", lambda: works("sk-new"))
    assert not stale()


def test_a_key_of_the_command_line_stands_in_no_list_of_processes():
    cluster = Cluster("--api-key", "sk-single")
    try:
        assert not [line for line in cluster.processes().values() if "sk-single" in line]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(cluster.http + "/v1/models", timeout=10)
        assert refused.value.code == 401
        client = openai.OpenAI(base_url=cluster.http + "/v1", api_key="sk-single", max_retries=0)
        assert len(list(client.models.list())) == 1
    finally:
        cluster.stop()


def test_what_a_drain_cuts_is_told():
    """A stream that is longer than the drain ends with an error event, by HTTP, and with a status, by gRPC."""
    cluster = Cluster("--set", "server.drain_timeout=1s")
    from interlace_client.client import pb, rpc
    lines, code, begun = [], [], [threading.Event(), threading.Event()]
    body = json.dumps({"prompt": "1 2 3", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()

    def by_http():
        request = urllib.request.Request(cluster.http + "/v1/completions", body, {"Content-Type": "application/json"})
        for line in urllib.request.urlopen(request, timeout=60):
            lines.append(line.decode().strip())
            begun[0].set()

    def by_grpc():
        with grpc.insecure_channel(cluster.grpc) as channel:
            ask = pb.GenerateRequest(text="1 2 3")
            ask.sampling.max_tokens = 4000
            ask.sampling.ignore_eos = True
            try:
                for _ in rpc.InferenceStub(channel).Generate(ask, timeout=60):
                    begun[1].set()
            except grpc.RpcError as error:
                code.append(error.code())

    threads = [threading.Thread(target=target) for target in (by_http, by_grpc)]
    for thread in threads:
        thread.start()
    for event in begun:
        assert event.wait(60)
    coordinator = cluster.child("coordinator")
    cluster.process.send_signal(signal.SIGTERM)

    def refuses():
        try:
            urllib.request.urlopen(cluster.http + "/ready", timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 503 and error.headers["Retry-After"]
        except OSError:
            return False
        return False

    wait_until("/ready says no", refuses, 10)
    for thread in threads:
        thread.join(60)
    assert cluster.process.wait(60) == 0
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert events[-1]["error"]["code"] == "server_stopping" and "data: [DONE]" in lines[-3:]
    assert code == [grpc.StatusCode.UNAVAILABLE]
    assert not os.path.exists(f"/proc/{coordinator}")
    cluster.output.close()
    cluster.folder.cleanup()


def test_large_prompts_do_not_hold_up_small_ones(shared):
    """Three prompts of 15 MB that no context holds, and beside them short ones."""
    large = json.dumps({"prompt": "one two three " * 1100000, "max_tokens": 4}).encode()
    small = json.dumps({"prompt": "1 2 3", "max_tokens": 1, "temperature": 0}).encode()
    codes, over = [], threading.Event()

    def ask(body):
        request = urllib.request.Request(shared.http + "/v1/completions", body, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code

    ask(small)
    threads = [threading.Thread(target=lambda: codes.append(ask(large))) for _ in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in threads):
        assert ask(small) == 200
        answered += 1
    print(f"{answered} small ones in the {time.monotonic() - began:.2f} s of three large ones")
    assert codes == [400, 400, 400]
    assert answered >= 2
