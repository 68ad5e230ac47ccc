"""Prompts and answers on replicas of their own, and a replica that is drained, leaves or joins: the same tokens."""
import os
import signal
import subprocess
import threading

import pytest

from cluster import BIN, Cluster, run_ids, wait_until

SHORT = "The history of the printing press begins in the fifteenth century, when"
LONG = ("You are a librarian who answers questions about the collection of a small town. " * 40) + "Who wrote the oldest book?"
TOKENS = 60


def client_of(cluster):
    from interlace_client import Client
    return Client(cluster.grpc)


def start(*flags, replicas: int = 2) -> Cluster:
    cluster = Cluster("--replicas", str(replicas), "--kvstore", "--host-kv", "64MiB", *flags)
    wait_until("all replicas are there", lambda: cluster.metric("interlace_ranks_ready") == replicas)
    return cluster


@pytest.fixture(scope="module")
def expected():
    return {prompt: run_ids(prompt, TOKENS) for prompt in (SHORT, LONG)}


@pytest.fixture(scope="module")
def apart():
    cluster = start("--roles", "prefill:1,decode:1")
    yield cluster
    cluster.stop()


def routed(client, name) -> list[str]:
    """Where the parts of a request ran, in order: "replica 0 for its prompt"."""
    return [d.text.removeprefix("routed to ").split(":")[0] for d in client.explain(name).decisions if d.kind == "routed"]


def run(client, prompt: str, name: str, **options) -> list[int]:
    stream = client.generate(prompt, request_id=name, **({"temperature": 0, "max_tokens": TOKENS} | options))
    stream.text()
    return list(stream.token_ids)


def handed(cluster, reason: str) -> float:
    return cluster.metric("interlace_router_hand_overs_total", f'reason="{reason}"')


def test_long_prompts_are_computed_apart_and_short_ones_are_not(apart, expected):
    with client_of(apart) as client:
        run(client, SHORT + " and so on " * 30, "warm", max_tokens=4)  # steps are known, so predictions are
        assert run(client, LONG, "long") == expected[LONG]
        assert routed(client, "long") == ["replica 0 for its prompt", "replica 1 for its answer"]
        assert run(client, SHORT, "short") == expected[SHORT]
        assert len(routed(client, "short")) == 1 and "replica 1 for all of it" in routed(client, "short")[0]
        fetched = apart.metric("interlace_kv_fetched_blocks_total", 'replica="1"')
        assert fetched > 10, "the prompt came by the kvstore"
        assert run(client, LONG, "again") == expected[LONG]
        assert "replica 1 for all of it" in routed(client, "again")[0], "its prompt is there"
    assert handed(apart, "lost") == 0


def test_seeds_penalties_scores_stops_and_constraints_cross_the_hand_over(apart):
    options = {"seeded": {"temperature": 0.9, "seed": 7}, "scored": {"logprobs": 2},
               "penalised": {"temperature": 1.1, "seed": 3, "repetition_penalty": 1.3},
               "constrained": {"regex": "[a-z ]{20,80}", "temperature": 0.8, "seed": 5},
               "prompted": {"prompt_logprobs": 1}, "stopped": {"stop": ["."], "temperature": 0.7, "seed": 9}}
    with client_of(apart) as client:
        for name, option in options.items():
            # The second time its prompt is held where answers are, so that one replica does all of it.
            streams = []
            for part in ("apart", "whole"):
                prompt = f"{name}: " + LONG
                stream = client.generate(prompt, max_tokens=TOKENS, request_id=f"{name}-{part}", **({"temperature": 0} | option))
                text = stream.text()
                streams.append((list(stream.token_ids), text, [p.SerializeToString(deterministic=True) for p in stream.logprobs], len(stream.prompt_logprobs)))
            assert streams[0] == streams[1], name
            assert len(routed(client, f"{name}-apart")) == (1 if len(streams[0][0]) < 2 else 2), name
            assert len(routed(client, f"{name}-whole")) == 1 or name == "prompted", "scores of a prompt adopt nothing"


def test_choices_of_one_prompt_are_those_of_each_alone(apart):
    import openai
    client = openai.OpenAI(base_url=apart.http + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id

    def texts() -> list[str]:
        done = client.completions.create(model=model, prompt="Choices. " + LONG, n=3, seed=11, temperature=0.9, max_tokens=30)
        return [choice.text for choice in sorted(done.choices, key=lambda c: c.index)]
    assert texts() == texts()


def mixed(client, expected, name: str, count: int, meanwhile) -> None:
    """Short and long prompts at once; `meanwhile` runs when all have begun. Every stream must be that of one replica."""
    prompts = [(LONG, SHORT)[i % 2] for i in range(count)]
    streams = [client.generate(p, max_tokens=TOKENS, temperature=0, request_id=f"{name}-{i}") for i, p in enumerate(prompts)]
    begun, failures = threading.Semaphore(0), []

    def read(stream, prompt):
        try:
            for at, _ in enumerate(stream):
                if at == 0:
                    begun.release()
            if list(stream.token_ids) != expected[prompt]:
                failures.append("other tokens")
        except Exception as error:  # noqa: BLE001: told below
            failures.append(error)
            begun.release()
    threads = [threading.Thread(target=read, args=pair) for pair in zip(streams, prompts)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=120)
    meanwhile()
    for thread in threads:
        thread.join(timeout=180)
        assert not thread.is_alive()
    assert not failures, failures


def test_a_prefill_replica_that_is_killed_mid_prefill_costs_time_alone(apart, expected):
    with client_of(apart) as client:
        prompt = "Another one. " + LONG
        want = run_ids(prompt, TOKENS)
        stream = client.generate(prompt, max_tokens=TOKENS, temperature=0, request_id="killed-prefill")
        thread = threading.Thread(target=stream.text)
        thread.start()
        wait_until("its prompt is being computed", lambda: apart.metric("vllm:num_requests_running", 'replica="0"') == 1)
        os.kill(apart.child("worker-0"), signal.SIGKILL)
        thread.join(timeout=120)
        assert list(stream.token_ids) == want
        assert "for its prompt" in routed(client, "killed-prefill")[0] and len(routed(client, "killed-prefill")) >= 2
        wait_until("the replica is back", lambda: apart.up_metric("interlace_ranks_ready") == 2)
    assert handed(apart, "lost") >= 1


def test_a_decode_replica_that_is_killed_mid_decode_costs_time_alone(apart, expected):
    with client_of(apart) as client:
        mixed(client, expected, "killed-decode", 4, lambda: os.kill(apart.child("worker-1"), signal.SIGKILL))
        wait_until("the replica is back", lambda: apart.up_metric("interlace_ranks_ready") == 2)
        assert run(client, "Afterwards. " + LONG, "afterwards")
        assert routed(client, "afterwards") == ["replica 0 for its prompt", "replica 1 for its answer"]
    apart.await_nothing_held()


def drain(cluster, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(BIN / "interlace"), "drain", "--url", cluster.http, *flags], capture_output=True, text=True, timeout=120)


def test_a_replica_is_drained_leaves_and_joins_under_eight_streams(expected):
    cluster = start("--set", "router.policy=round_robin")
    try:
        with client_of(cluster) as client:
            def drained():
                done = drain(cluster, "--replica", "0")
                assert done.returncode == 0, done.stdout + done.stderr
                assert "replica 0: drained" in done.stdout
            mixed(client, expected, "drained", 8, drained)
            assert handed(cluster, "drain") >= 1 and handed(cluster, "lost") == 0
            page = subprocess.run([str(BIN / "interlace"), "status", "--url", cluster.http], capture_output=True, text=True, timeout=60)
            assert page.returncode == 0 and "drained" in page.stdout, page.stdout
            run(client, SHORT, "elsewhere")
            assert routed(client, "elsewhere")[0].startswith("replica 1")
            # The last one is drained, too: what runs there ends there, and nobody takes what is new.
            assert drain(cluster, "--replica", "1").returncode == 0
            wait_until("it is not ready", lambda: "draining" in subprocess.run(
                [str(BIN / "interlace"), "status", "--url", cluster.http], capture_output=True, text=True, timeout=60).stdout)
            assert drain(cluster, "--resume", "--replica", "0").returncode == 0
            assert drain(cluster, "--resume", "--replica", "1").returncode == 0
            refused = drain(cluster, "--replica", "2")
            assert refused.returncode != 0 and "replica" in refused.stderr

            # It leaves: its rank ends. It joins: it is started again, and gets requests.
            mixed(client, expected, "left", 8, lambda: os.kill(cluster.child("worker-1"), signal.SIGTERM))
            wait_until("the replica is back", lambda: cluster.up_metric("interlace_ranks_ready") == 2)
            before = cluster.metric("interlace_router_requests_total", 'replica="1"')
            mixed(client, expected, "joined", 4, lambda: None)
            assert cluster.metric("interlace_router_requests_total", 'replica="1"') > before
        cluster.await_nothing_held()
    finally:
        cluster.stop()
