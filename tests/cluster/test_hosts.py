"""Processes on hosts of their own: the same tokens as on one, whatever their links do."""
import base64
import json
import os
import time
import urllib.error
import urllib.request

import grpc
import pytest

from cluster import run_ids, wait_until
from hosts import Fleet, Network, why_no_hosts

PROMPT = "The history of the printing press begins in the fifteenth century, when"
LONG = "You are a librarian who answers questions about the collection of a small town. " * 20 + "Who wrote the oldest book?"
TOKENS = 60
SEEDED = {"temperature": 0.9, "seed": 7}
SMALL = ("kv.device_bytes=64MiB", "kv.host_bytes=64MiB", "kvstore.host_bytes=128MiB", "engine.threads=1")
DELAY = 0.01

WHY_NOT = why_no_hosts()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def len_and_first(names: tuple) -> str:
    return "both" if len(names) > 1 else f"from-{names[0]}"


def record_says(fleet, words: str) -> bool:
    """Whether some key of etcd does."""
    request = urllib.request.Request(f"http://{fleet.address('etcd')}:2379/v3/kv/range",
                                     data=b'{"key":"AA==","range_end":"AA=="}')
    with urllib.request.urlopen(request, timeout=10) as reply:
        return any(words in base64.b64decode(entry["value"]).decode() for entry in json.load(reply).get("kvs", []))


def drained(url: str) -> list:
    """Of each replica whether it is; empty: the coordinator does not answer."""
    try:
        with urllib.request.urlopen(url + "/debug/drain", timeout=10) as reply:
            return [replica["draining"] for replica in json.load(reply)["replicas"]]
    except OSError:
        return []


@pytest.fixture(scope="module")
def expected():
    """One process on one host."""
    return {PROMPT: run_ids(PROMPT, TOKENS), LONG: run_ids(LONG, 24),
            "seeded": run_ids(PROMPT, TOKENS, "--temperature", "0.9", "--seed", "7")}


@pytest.fixture
def network():
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def apart():
    """Two stages half of whose layers are streamed, a kvstore, a coordinator: each on a host of its own."""
    with Network() as network:
        fleet = Fleet(network, *SMALL, "kv.keep_layers=15", stages=2)
        try:
            yield fleet
            fleet.stop()
        finally:
            fleet.kill()


def client_of(fleet):
    from interlace_client import Client
    return Client(fleet.grpc)


def ids_of(client, prompt: str, tokens: int, **options) -> list:
    stream = client.generate(prompt, max_tokens=tokens, timeout=60, **({"temperature": 0} | options))
    stream.text()
    return stream.token_ids


def disturbed(fleet, act, **options):
    """A stream in whose middle act() happens."""
    with client_of(fleet) as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, timeout=60, request_id=options.pop("name", ""),
                                 **({"temperature": 0} | options))
        acted = False
        for _ in stream:
            if not acted and len(stream.token_ids) >= 20:
                act()
                acted = True
        assert acted
        return stream


def check_tokens(fleet, expected):
    with client_of(fleet) as client:
        assert ids_of(client, PROMPT, TOKENS) == expected[PROMPT]
        assert ids_of(client, PROMPT, TOKENS, **SEEDED) == expected["seeded"]
        assert ids_of(client, LONG, 24) == expected[LONG]


def test_two_hosts(network, expected):
    """Coordinator, kvstore and the first stage on one, the second on the other; the client is on neither."""
    fleet = Fleet(network, *SMALL, stages=2, place=lambda process: "two" if process == "worker-0-1" else "one")
    try:
        check_tokens(fleet, expected)
        fleet.stop()
    finally:
        fleet.kill()


@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="a slow link is a TAP device, and /dev/net/tun is not here")
def test_three_hosts_of_which_one_has_a_slow_link(network, expected):
    """The second stage and the kvstore lie behind a link that is late and narrow, as between sites: slower, and nobody
    counts as lost."""
    network.host("far", delay=DELAY, rate=4e6)
    fleet = Fleet(network, *SMALL, stages=2, place=lambda process: {"coordinator-a": "one", "worker-0-0": "two"}.get(process, "far"))
    try:
        check_tokens(fleet, expected)
        assert fleet.metric("interlace_replica_losses_total") == 0
        assert fleet.said("worker-0-0", "kvstore lost") == 0
        fleet.stop()
    finally:
        fleet.kill()


@pytest.mark.parametrize("victim", ["worker-0-0", "worker-0-1"])
def test_a_ranks_link_is_cut_and_healed(apart, expected, victim):
    def cut_until_noticed():
        apart.network.cut(victim)
        wait_until("the coordinator misses it", lambda: 0 <= apart.ranks_ready() < 2, 10)
        apart.network.heal(victim)

    stream = disturbed(apart, cut_until_noticed, name=f"cut-{victim}")
    assert stream.token_ids == expected[PROMPT] and stream.tries == 1, "the client noticed a pause alone"
    with client_of(apart) as client:
        assert any(d.kind == "lost_replica" for d in client.explain(f"cut-{victim}").decisions)
    wait_until("every block was given back", apart.nothing_held)


def test_what_a_rank_sends_is_lost_and_it_hears_all(apart, expected):
    def cut_one_way():
        apart.network.cut_way("worker-0-1", "coordinator-a")
        wait_until("the coordinator misses it", lambda: 0 <= apart.ranks_ready() < 2, 10)
        apart.network.heal_way("worker-0-1", "coordinator-a")

    stream = disturbed(apart, cut_one_way, **SEEDED)
    assert stream.token_ids == expected["seeded"] and stream.tries == 1
    wait_until("every block was given back", apart.nothing_held)


@pytest.mark.parametrize("lost_from", [("worker-0-0", "worker-0-1"), ("worker-0-0",), ("worker-0-1",)], ids=len_and_first)
def test_the_link_between_stages_is_cut_and_healed(apart, expected, lost_from):
    """Both are heard by the coordinator, and neither hears the other; or one hears, and is not heard. They are to find it out
    within 2 s, of which a busy machine may make 5."""
    lost = apart.metric("interlace_replica_losses_total")
    other = {"worker-0-0": "worker-0-1", "worker-0-1": "worker-0-0"}

    def cut_until_noticed():
        for sender in lost_from:
            apart.network.cut_way(sender, other[sender])
        begin = time.monotonic()
        wait_until("somebody misses the other", lambda: apart.metric("interlace_replica_losses_total") > lost, 5)
        print(f"\nnoticed after {time.monotonic() - begin:.2f} s")
        for sender in lost_from:
            apart.network.heal_way(sender, other[sender])

    stream = disturbed(apart, cut_until_noticed)
    assert stream.token_ids == expected[PROMPT] and stream.tries == 1
    wait_until("every block was given back", apart.nothing_held)


def test_the_link_between_stages_is_cut_while_nothing_runs(apart, expected):
    """The next request finds that out, and goes on once the way is there again."""
    lost = apart.metric("interlace_replica_losses_total")
    apart.network.cut_between("worker-0-0", "worker-0-1")
    with client_of(apart) as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, timeout=60, temperature=0)
        wait_until("somebody misses the other", lambda: apart.metric("interlace_replica_losses_total") > lost, 5)
        apart.network.heal_between("worker-0-0", "worker-0-1")
        stream.text()
    assert stream.token_ids == expected[PROMPT] and stream.tries == 1
    wait_until("every block was given back", apart.nothing_held)


def test_the_kvstores_link_is_cut_and_healed(apart, expected):
    """It is a cache: no step waits for it, and it is used again by itself."""
    lost = apart.said("worker-0-0", "kvstore lost")
    stream = disturbed(apart, lambda: apart.network.cut("kvstore"), name="storeless")
    assert stream.token_ids == expected[PROMPT] and stream.tries == 1
    with client_of(apart) as client:
        assert client.explain("storeless").recomputes == 0
        wait_until("a rank misses it", lambda: ids_of(client, LONG, 24) == expected[LONG] and
                   apart.said("worker-0-0", "kvstore lost") > lost)
        apart.network.heal("kvstore")
        attached = apart.said("worker-0-0", "kvstore attached")
        wait_until("it is used again", lambda: apart.said("worker-0-0", "kvstore attached") > attached)
        assert ids_of(client, PROMPT, TOKENS) == expected[PROMPT]


def test_the_coordinators_link_is_cut_and_healed(apart, expected):
    """Ranks and clients lose it; ranks keep their weights and KV, and the client goes on behind what has come."""
    words = "no session with the coordinator"
    before = {name: apart.said(name, words) for name in apart.workers}

    def cut_until_noticed():
        apart.network.cut("coordinator-a")
        wait_until("the ranks miss it", lambda: all(apart.said(name, words) > before[name] for name in apart.workers), 10)
        apart.network.heal("coordinator-a")

    stream = disturbed(apart, cut_until_noticed)
    assert stream.token_ids == expected[PROMPT]
    assert [process.poll() for process in apart.processes.values()] == [None] * len(apart.processes)
    wait_until("every block was given back", apart.nothing_held)


def test_a_link_that_stays_cut_ends_the_stream(network):
    """A client is told so, by a status that says: again later."""
    fleet = Fleet(network, *SMALL, "cluster.reform_timeout=1s", kvstore=False)
    try:
        with client_of(fleet) as client:
            stream = client.generate(PROMPT, max_tokens=2000, ignore_eos=True, temperature=0, timeout=60, retries=0)
            with pytest.raises(grpc.RpcError) as gone:
                for count, _ in enumerate(stream):
                    if count == 10:
                        network.cut("worker-0-0")
            assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
            network.heal("worker-0-0")
            wait_until("the rank is back", fleet.whole)
            assert ids_of(client, "1 2 3 4", 8)
        wait_until("every block was given back", fleet.nothing_held)
        fleet.stop()
    finally:
        fleet.kill()


def test_a_drained_replica_is_drained_at_the_next_leader_too(network):
    """Also while its ranks are stopped, for which it was drained."""
    fleet = Fleet(network, *SMALL, replicas=2, coordinators=2, kvstore=False)
    try:
        leader = wait_until("one leads", fleet.leader)
        standby = next(name for name in fleet.coordinators if name != leader)
        drain = urllib.request.Request(fleet.url(leader) + "/debug/drain", data=b'{"replica":1}')
        urllib.request.urlopen(drain, timeout=10).close()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(fleet.url(standby) + "/debug/drain", data=b'{"replica":0}'), timeout=10)
        assert refused.value.code == 503 and refused.value.headers["x-interlace-leader"]
        wait_until("the record says so", lambda: record_says(fleet, '"drained":[1]'))
        fleet.kill_one("worker-1-0")
        fleet.kill_one(leader)
        wait_until("the other one leads", lambda: fleet.metric("interlace_leads", of=standby) == 1)
        wait_until("it has taken the drain over", lambda: drained(fleet.url(standby)) == [False, True])
        fleet.start("worker-1-0")
        fleet.start(leader)
        wait_until("the cluster is whole", fleet.whole)
        assert drained(fleet.url(standby)) == [False, True]
        fleet.stop()
    finally:
        fleet.kill()
