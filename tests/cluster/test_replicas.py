"""Several replicas behind one coordinator: the same tokens as one replica, wherever a stream goes on."""
import os
import signal

import pytest

from cluster import Cluster, run_ids, wait_until

PROMPT = "The history of the printing press begins in the fifteenth century, when"
TOKENS = 120
SHARED = ("You are a librarian who answers questions about the collection of a small town. " * 12)


def client_of(cluster):
    from interlace_client import Client
    return Client(cluster.grpc)


def start(*flags) -> Cluster:
    cluster = Cluster("--replicas", "2", "--host-kv", "64MiB", *flags)
    wait_until("both replicas are there", lambda: cluster.metric("interlace_ranks_ready") == 2)
    return cluster


@pytest.fixture(scope="module")
def expected():
    return run_ids(PROMPT, TOKENS)


def routed(client, name) -> list[str]:
    return [d.text for d in client.explain(name).decisions if d.kind == "routed"]


def test_streams_are_those_of_one_replica_and_go_on_elsewhere(expected):
    cluster = start("--set", "router.policy=round_robin")
    try:
        with client_of(cluster) as client:
            for name in ("first", "second"):
                stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0, request_id=name)
                stream.text()
                assert stream.token_ids == expected
            assert "routed to replica 0:" in routed(client, "first")[0]
            assert "routed to replica 1:" in routed(client, "second")[0]

            seeded = client.generate(PROMPT, max_tokens=TOKENS, temperature=0.9, seed=7)
            seeded.text()
            for name, options, want in (("greedy", {"temperature": 0}, expected),
                                        ("seeded", {"temperature": 0.9, "seed": 7}, seeded.token_ids)):
                stream = client.generate(PROMPT, max_tokens=TOKENS, request_id=name, **options)
                for count, _ in enumerate(stream):
                    if count == 30:
                        replica = routed(client, name)[0].split("replica ")[1][0]
                        os.kill(cluster.child(f"worker-{replica}"), signal.SIGKILL)
                assert stream.token_ids == want
                decisions = [d.kind for d in client.explain(name).decisions]
                assert decisions.count("routed") == 2 and decisions.count("handed_over") == 1
                wait_until("the replica is back", lambda: cluster.up_metric("interlace_ranks_ready") == 2)
        assert cluster.metric("interlace_router_taken_back_total") == 2
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_a_shared_prefix_goes_to_its_holder():
    cluster = start()
    try:
        with client_of(cluster) as client:
            client.generate(SHARED + "Who wrote the oldest book?", max_tokens=4, temperature=0, request_id="one").text()
            client.generate("Something else entirely, " * 40, max_tokens=4, temperature=0, request_id="other").text()
            again = client.generate(SHARED + "What is open on Sunday?", max_tokens=4, temperature=0, request_id="two")
            again.text()
            holder = routed(client, "one")[0].split("replica ")[1][0]
            assert routed(client, "other")[0].split("replica ")[1][0] != holder
            assert routed(client, "two")[0].split("replica ")[1][0] == holder
            assert again.result.cached_tokens > 150
    finally:
        cluster.stop()
