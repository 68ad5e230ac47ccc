"""The same tokens, bit for bit, however the cluster is cut and wherever the KV lives."""
import os
import signal

import pytest

from cluster import Cluster, run_ids

PROMPTS = ["1 2 3 4", "The history of the printing press begins in the fifteenth century, when",
           "def fibonacci(n):\n    ", "Once upon a time, in a small village by the sea, there lived " * 6]
TOKENS = 40


@pytest.fixture(scope="module")
def expected():
    return [run_ids(prompt, TOKENS, "--keep-layers", "30") for prompt in PROMPTS]


@pytest.mark.parametrize("pp, keep, tier, chunk", [
    (1, 0, "", 256), (1, 30, "rocksdb", 16), (2, 15, "remote", 16), (2, 0, "rocksdb", 256), (2, 30, "", 256),
    (3, 15, "", 1), (3, 0, "remote", 512),
])
def test_same_tokens(expected, tmp_path, pp, keep, tier, chunk):
    from interlace_client import Client
    flags = ["--pp", str(pp), "--keep-layers", str(keep), "--device-kv", "48MiB", "--set", f"sched.chunk_tokens={chunk}"]
    if tier == "remote":
        flags += ["--kvstore"]
    if tier == "rocksdb":
        flags += ["--rocksdb", str(tmp_path / "rocksdb")]
    cluster = Cluster(*flags)
    try:
        with Client(cluster.grpc) as client:
            alone = client.generate(PROMPTS[3], max_tokens=TOKENS, temperature=0)
            alone.text()
            assert alone.token_ids == expected[3]
            streams = [client.generate(p, max_tokens=TOKENS, temperature=0) for p in PROMPTS * 2]  # a batch of 8
            for stream, ids in zip(streams, expected * 2):
                stream.text()
                assert stream.token_ids == ids
        if keep < 30:
            assert cluster.metric("interlace_transfer_bytes_total") > 0
        assert cluster.metric("vllm:prefix_cache_hits_total") > 0  # the batch says again what came alone
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_same_tokens_of_ranks_that_share_a_stage(tmp_path):
    """Sums of parts have bits of their own: those of three ranks a stage, however else the cluster is cut, and though
    one of the ranks dies on the way."""
    from interlace_client import Client
    seen = []
    for flags in (["--keep-layers", "30"],
                  ["--pp", "2", "--keep-layers", "15", "--rocksdb", str(tmp_path / "rocksdb"), "--set", "sched.chunk_tokens=16"]):
        cluster = Cluster("--tp", "3", "--device-kv", "48MiB", *flags)
        try:
            with Client(cluster.grpc) as client:
                streams = [client.generate(p, max_tokens=TOKENS, temperature=0) for p in PROMPTS]
                for stream in streams:
                    stream.text()
                seen.append([stream.token_ids for stream in streams])
                cut = client.generate(PROMPTS[3], max_tokens=TOKENS, temperature=0)
                for count, _ in enumerate(cut):
                    if count == 10:
                        os.kill(cluster.child("worker-1"), signal.SIGKILL)
                assert cut.token_ids == streams[3].token_ids
            cluster.await_nothing_held()
        finally:
            cluster.stop()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("sp, flags", [
    (2, ["--keep-layers", "30"]), (3, ["--keep-layers", "0", "--kvstore", "--set", "sched.chunk_tokens=128"]),
    (2, ["--pp", "2", "--keep-layers", "15", "--rocksdb", "rocksdb"]),
])
def test_same_tokens_of_ranks_that_divide_rows(tmp_path, sp, flags):
    """Those of one rank, though long prompts are read by several and one of them dies on the way."""
    from interlace_client import Client
    prompts = PROMPTS + [PROMPTS[3] * 4]
    expected = [run_ids(prompt, TOKENS, "--keep-layers", "30") for prompt in prompts]
    flags = [str(tmp_path / flag) if flag == "rocksdb" else flag for flag in flags]
    cluster = Cluster("--sp", str(sp), "--device-kv", "48MiB", *flags)
    try:
        with Client(cluster.grpc) as client:
            alone = client.generate(prompts[4], max_tokens=TOKENS, temperature=0)
            alone.text()
            assert alone.token_ids == expected[4]
            streams = [client.generate(p, max_tokens=TOKENS, temperature=0) for p in prompts * 2]
            for stream, ids in zip(streams, expected * 2):
                stream.text()
                assert stream.token_ids == ids
            cut = client.generate(prompts[4], max_tokens=TOKENS, temperature=0)
            for count, _ in enumerate(cut):
                if count == 10:
                    os.kill(cluster.child("worker-1"), signal.SIGKILL)
            assert cut.token_ids == expected[4]
        cluster.await_nothing_held()
    finally:
        cluster.stop()


@pytest.mark.parametrize("pp", [2, 3])
def test_streams_that_end_early_disturb_nobody(expected, pp):
    """A stop string, few tokens, a client that leaves: the ranks are ahead of all of them."""
    from interlace_client import Client
    cluster = Cluster("--pp", str(pp))
    try:
        with Client(cluster.grpc) as client:
            whole = client.generate(PROMPTS[1], max_tokens=TOKENS, temperature=0).text()
            stop = whole.split()[8]
            for _ in range(3):
                streams = [client.generate(p, max_tokens=TOKENS, temperature=0) for p in PROMPTS]
                stopped = client.generate(PROMPTS[1], max_tokens=TOKENS, temperature=0, stop=[stop])
                short = [client.generate(p, max_tokens=n + 1, temperature=0) for n, p in enumerate(PROMPTS)]
                leaving = [client.generate(p, max_tokens=400, temperature=0, ignore_eos=True) for p in PROMPTS]
                for pieces, stream in enumerate(leaving):
                    for _, _piece in zip(range(pieces + 1), stream):
                        pass
                    stream.cancel()
                assert stopped.text() == whole[:whole.index(stop)]
                for stream, ids in zip(streams, expected):
                    stream.text()
                    assert stream.token_ids == ids
                for stream, ids in zip(short, expected):
                    stream.text()
                    assert stream.token_ids == ids[:len(stream.token_ids)]
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_run_and_serve_read_a_prompt_alike():
    """Also of a model whose prompts begin with a token of their own."""
    from interlace_client import Client
    cluster = Cluster(model="gemma3-270m")
    try:
        with Client(cluster.grpc) as client:
            stream = client.generate(PROMPTS[1], max_tokens=8, temperature=0)
            stream.text()
        assert stream.token_ids == run_ids(PROMPTS[1], 8, model="gemma3-270m")
    finally:
        cluster.stop()


@pytest.mark.parametrize("flags", [("--keep-layers", "0"), ("--keep-layers", "15", "--threads", "1"),
                                   ("--keep-layers", "15", "--threads", "2", "--set", "sched.chunk_tokens=1")])
def test_run_is_the_same(expected, flags):
    assert run_ids(PROMPTS[3], TOKENS, *flags) == expected[3]
