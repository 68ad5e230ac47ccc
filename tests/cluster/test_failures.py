"""Every request ends with a status, and never with a wrong token."""
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request

import grpc
import pytest

from cluster import Cluster, run_ids, wait_until

PROMPT = "The history of the printing press begins in the fifteenth century, when"
TOKENS = 120


@pytest.fixture(scope="module")
def expected():
    return run_ids(PROMPT, TOKENS, "--keep-layers", "30")


def client_of(cluster):
    from interlace_client import Client
    return Client(cluster.grpc)


def consume(stream, after, act):
    """Reads the stream; calls act() once `after` pieces have come."""
    for count, _ in enumerate(stream):
        if count == after:
            act()


def post(cluster, path, body, timeout=30):
    request = urllib.request.Request(cluster.http + path, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_kvstore_killed_in_mid_stream(expected):
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--kvstore")
    try:
        with client_of(cluster) as client:
            stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0, request_id="survivor")
            consume(stream, 50, lambda: os.kill(cluster.child("kvstore"), signal.SIGKILL))
            assert stream.token_ids == expected
            assert client.explain("survivor").recomputes == 0  # the store is a cache: nobody's step waits for it
            again = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
            again.text()
            assert again.token_ids == expected
        wait_until("blocks are free", lambda: cluster.metric("interlace_kv_blocks_held") == 0)
    finally:
        cluster.stop()


def test_worker_killed_in_mid_stream(expected):
    cluster = Cluster("--pp", "2", "--keep-layers", "15")
    try:
        with client_of(cluster) as client:
            stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0, request_id="moved")
            consume(stream, 40, lambda: os.kill(cluster.child("worker-1"), signal.SIGKILL))
            assert stream.token_ids == expected  # the rank is started again and the stream goes on
            assert any(d.kind == "lost_replica" for d in client.explain("moved").decisions)
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_worker_gone_for_good():
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--set", "cluster.reform_timeout=1s")
    try:
        with client_of(cluster) as client:
            def stop_rank():
                os.kill(cluster.process.pid, signal.SIGSTOP)  # nobody starts it again
                os.kill(cluster.child("worker-0"), signal.SIGKILL)

            stream = client.generate(PROMPT, max_tokens=2000, temperature=0, ignore_eos=True, retries=0)
            with pytest.raises(grpc.RpcError) as gone:
                consume(stream, 20, stop_rank)
            assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
            # Whoever noticed first: the coordinator its stream, or stage 1, which gets its rows and sends it its samples.
            noticed = ("stage 0", "the previous pipeline stage is gone", "did not reach the first stage")
            assert any(who in gone.value.details() for who in noticed), gone.value.details()
            status, body = post(cluster, "/v1/completions", b'{"prompt": "x"}')
            assert status == 503 and "no replica is ready" in body["error"]["message"]
            os.kill(cluster.process.pid, signal.SIGCONT)
            wait_until("the rank is back", lambda: cluster.metric("interlace_ranks_ready") == 2)
            assert client.generate(PROMPT, max_tokens=4, temperature=0).text()
        cluster.await_nothing_held()
    finally:
        os.kill(cluster.process.pid, signal.SIGCONT)
        cluster.stop()


def test_client_gone(shared):
    host, port = shared.http[7:].split(":")
    body = json.dumps({"prompt": PROMPT, "max_tokens": 3000, "temperature": 0, "stream": True, "ignore_eos": True})
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        got = b""
        while b"data: " not in got:
            piece = connection.recv(4096)
            assert piece, got
            got += piece
    shared.await_nothing_held()


def test_slow_reader_does_not_hold_others(shared):
    host, port = shared.http[7:].split(":")
    # A stream of large events: more than the system's buffers hold, and then more than the door keeps for a reader.
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6000, "temperature": 0,
                       "stream": True, "ignore_eos": True, "logprobs": True, "top_logprobs": 20})
    cut = shared.metric("interlace_requests_failed_total")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before the window is agreed on
        connection.connect((host, int(port)))
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

        def others_are_served_until_it_is_cut():
            answer = json.loads(urllib.request.urlopen(urllib.request.Request(
                shared.http + "/v1/completions", headers={"Content-Type": "application/json"},
                data=b'{"prompt": "1 2 3 4", "max_tokens": 8, "temperature": 0}'), timeout=20).read())
            assert answer["choices"][0]["text"] == " 5 6 7 8"
            return shared.metric("interlace_requests_failed_total") > cut

        # The door gives the reader up while its connection is open: it was really behind.
        wait_until("the reader that does not read is cut", others_are_served_until_it_is_cut, 120)
    shared.await_nothing_held()


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"{}", b'{"prompt": 3}', b'{"prompt": "x", "max_tokens": "many"}',
                                  b'{"prompt": []}', b'{"prompt": [[1], "x"]}', b'{"prompt": "x", "stop": {}}', b"\xff\xfe"])
def test_malformed_bodies(shared, body):
    status, answer = post(shared, "/v1/completions", body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error" and answer["error"]["message"]


def test_paths_and_methods(shared):
    assert post(shared, "/v1/nothing", b"{}")[0] == 404
    assert post(shared, "/v1/models", b"{}")[0] == 405
    host, port = shared.http[7:].split(":")
    with socket.create_connection((host, int(port))) as connection:  # refused by its length, before it is read
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 17825792\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_arena_too_small():
    cluster = Cluster("--device-kv", "2MiB")
    try:
        status, answer = post(cluster, "/v1/completions",
                              json.dumps({"prompt": "word " * 2000, "max_tokens": 8}).encode())
        assert status == 400 and "can never run" in answer["error"]["message"]
        assert "kv.device_bytes" in answer["error"]["message"]
        status, answer = post(cluster, "/v1/completions", b'{"prompt": "1 2 3 4", "max_tokens": 8, "temperature": 0}')
        assert status == 200 and answer["choices"][0]["text"] == " 5 6 7 8"
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_drain_finishes_what_runs(expected):
    cluster = Cluster("--keep-layers", "30")
    with client_of(cluster) as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        stopper = threading.Thread(target=cluster.stop)
        consume(stream, 10, stopper.start)
        stopper.join()
        assert stream.token_ids == expected


def test_corrupt_blocks_are_computed_again(expected):
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--set", "sched.max_recomputes=100000",
                      "--set", "fault.points=kv.flip_at_rest:0.002,kv.swap_layer:0.001,kv.swap_request:0.001,"
                               "kv.flip_in_flight:0.01")
    try:
        with client_of(cluster) as client:
            streams = [client.generate(PROMPT, max_tokens=TOKENS, temperature=0) for _ in range(3)]
            for stream in streams:
                stream.text()
                assert stream.token_ids == expected
        assert cluster.metric("interlace_kv_block_corrupt_total") > 0
        assert cluster.metric("interlace_recomputed_tokens_total") > 0
        cluster.await_nothing_held()
    finally:
        cluster.stop()
