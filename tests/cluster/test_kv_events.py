"""KV events as routers of others read them: ZeroMQ and MessagePack with pyzmq, msgspec and vLLM's structures, gRPC with the
gateway's package."""
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from cluster import Cluster, wait_until

msgspec = pytest.importorskip("msgspec")
zmq = pytest.importorskip("zmq")
pytest.importorskip("smg_grpc_proto")

BLOCK = 32  # tokens
TOPIC = "kv@pod-7@small"
END = (-1).to_bytes(8, "big", signed=True)


# As vllm/distributed/kv_events.py declares them.
class KVCacheEvent(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag=True):
    pass


class BlockStored(KVCacheEvent):
    block_hashes: list[bytes | int]
    parent_block_hash: bytes | int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[bytes | int]
    medium: str | None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class Picture:
    """What a reader believes: by hash, the tokens of the block and all before it, and where it lies."""

    def __init__(self):
        self.text, self.media = {}, {}
        self.seen = set()  # all media that were ever said

    def cleared(self):
        self.text, self.media = {}, {}

    def stored(self, hashes, parent, tokens, medium):
        self.seen.add(medium)
        text = self.text[parent] if parent is not None else []
        for i, name in enumerate(hashes):
            if tokens:
                text = text + tokens[i * BLOCK:(i + 1) * BLOCK]
                self.text[name] = text
            assert name in self.text, "moved, and never told"
            self.media.setdefault(name, set()).add(medium)

    def removed(self, hashes, medium):
        for name in hashes:
            self.media[name].remove(medium)
            if not self.media[name]:
                del self.media[name], self.text[name]

    def blocks(self):
        assert all(len(media) == 1 for media in self.media.values())
        return {name: (tuple(self.text[name]), *media) for name, media in self.media.items()}


class Subscriber:
    """A ZeroMQ reader that asks for what it missed."""

    def __init__(self, publish: str, replay: str):
        self.context = zmq.Context()
        self.subscriber = self.context.socket(zmq.SUB)
        self.subscriber.setsockopt(zmq.SUBSCRIBE, b"kv@")
        self.subscriber.connect(f"tcp://{publish}")
        self.replay_at = replay
        self.picture, self.last, self.replays = Picture(), 0, 0
        self.heard = False  # whether anything came that it did not ask for

    def close(self):
        self.context.destroy(linger=0)

    def _apply(self, number: int, payload: bytes):
        if number <= self.last:
            return
        assert self.last == 0 or number == self.last + 1 or number >> 20 > self.last >> 20
        self.last = number
        batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
        assert batch.data_parallel_rank == 0 and batch.ts > 1e9
        for event in batch.events:
            if isinstance(event, BlockStored):
                assert event.block_size == BLOCK
                self.picture.stored(event.block_hashes, event.parent_block_hash, event.token_ids, event.medium)
            elif isinstance(event, BlockRemoved):
                self.picture.removed(event.block_hashes, event.medium)
            else:
                self.picture.cleared()

    def replay(self, start: int) -> list[tuple[int, bytes]]:
        self.replays += 1
        asker = self.context.socket(zmq.DEALER)
        asker.connect(f"tcp://{self.replay_at}")
        asker.send_multipart([b"", start.to_bytes(8, "big")])
        batches = []
        while True:
            assert asker.poll(20000), "no end of the replay"
            _, number, payload = asker.recv_multipart()
            if number == END:
                asker.close(linger=0)
                return batches
            batches.append((int.from_bytes(number, "big"), payload))

    def drain(self) -> bool:
        """Takes what there is; true if there was something."""
        some = False
        while self.subscriber.poll(20):
            topic, number, payload = self.subscriber.recv_multipart()
            assert topic.decode() == TOPIC
            number, some, self.heard = int.from_bytes(number, "big"), True, True
            if number > self.last + 1:
                self.catch_up()
            self._apply(number, payload)
        return some

    def catch_up(self):
        for missed in self.replay(self.last + 1):
            self._apply(*missed)


def over_grpc(cluster, start: int, until: int):
    reader = pathlib.Path(__file__).parent / "kv_events_reader.py"
    done = subprocess.run([sys.executable, str(reader), cluster.grpc, str(start), str(until)], capture_output=True, text=True,
                          timeout=90)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def apply_grpc(batches, picture: Picture):
    for batch in batches:
        for event in batch["events"]:
            if "stored" in event:
                stored = event["stored"]
                assert stored["tier"] == {"GPU": "KV_CACHE_TIER_DEVICE", "CPU": "KV_CACHE_TIER_HOST"}[stored["medium"]]
                parent = stored.get("parent_block_hash")
                picture.stored([int(block["block_hash"]) for block in stored["blocks"]], None if parent is None else int(parent),
                               [token for block in stored["blocks"] for token in block.get("token_ids", [])], stored["medium"])
            elif "removed" in event:
                picture.removed([int(name) for name in event["removed"]["block_hashes"]], event["removed"]["medium"])
            else:
                picture.cleared()


def post(cluster, path: str, body: dict) -> dict:
    request = urllib.request.Request(cluster.http + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def prompt_of(seed: int, words: int) -> str:
    return " ".join(str((seed * 7919 + i * 104729) % 9973) for i in range(words))


def ask(cluster, prompt: str, **fields) -> list[int]:
    post(cluster, "/v1/completions", {"prompt": prompt, "max_tokens": 2, "temperature": 0, **fields})
    return post(cluster, "/tokenize", {"prompt": prompt})["tokens"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    ports = [free_port(), free_port()]
    cluster = Cluster("--device-kv", "24MiB", "--host-kv", "24MiB", "--set", f"kv_events.zmq=127.0.0.1:{ports[0]}",
                      "--set", f"kv_events.zmq_replay=127.0.0.1:{ports[1]}", "--set", "kv_events.grpc=true",
                      "--set", f"kv_events.topic={TOPIC}")
    yield cluster
    cluster.stop()


@pytest.fixture
def subscriber(cluster):
    doors = dict(line.split("=", 1) for line in (cluster.state / "coordinator.ready").read_text().split())
    subscriber = Subscriber(doors["kv_events"], doors["kv_events_replay"])
    yield subscriber
    subscriber.close()


def settle(cluster, subscriber):
    """Reads until nothing comes any more and all that the server tells is known. A publisher keeps nothing for a reader whose
    subscription is still on its way: until one batch came by itself, the reader asks for what there is."""
    def quiet():
        some = subscriber.drain()
        if not subscriber.heard:
            subscriber.catch_up()
        return not some and len(subscriber.picture.media) == cluster.metric("interlace_kv_event_blocks")
    wait_until("the reader knows all", quiet, 60)


def test_both_ways_draw_the_picture_that_is(cluster, subscriber):
    prompt = prompt_of(1, 200)
    tokens = ask(cluster, prompt)
    ask(cluster, "salted " + prompt, cache_salt="one tenant's alone")
    settle(cluster, subscriber)  # it came late: the first batch it hears makes it ask for all others
    texts = {text for text, _ in subscriber.picture.blocks().values()}
    whole = len(tokens) // BLOCK * BLOCK
    assert {tuple(tokens[:end]) for end in range(BLOCK, whole + 1, BLOCK)} <= texts
    salted = post(cluster, "/tokenize", {"prompt": "salted " + prompt})["tokens"]
    assert tuple(salted[:BLOCK]) not in texts

    before, known = subscriber.last, dict(subscriber.picture.blocks())
    for seed in range(2, 6):  # more than the device holds, then more than both
        ask(cluster, prompt_of(seed, 260))
    settle(cluster, subscriber)
    assert subscriber.picture.seen == {"GPU", "CPU"}
    assert set(known) - set(subscriber.picture.blocks()), "nothing left"

    for start in (0, before):  # all of it; and what came since
        picture = Picture()
        if start:
            replayed = Subscriber(cluster.grpc, subscriber.replay_at)
            for missed in replayed.replay(0):
                if missed[0] <= start:
                    replayed._apply(*missed)
            picture = replayed.picture
            replayed.close()
        batches = over_grpc(cluster, start, subscriber.last)
        assert [int(batch["sequence_number"]) for batch in batches][-1] == subscriber.last
        assert all(("snapshot" in batch) == (start == 0) for batch in batches)
        apply_grpc(batches, picture)
        assert picture.blocks() == subscriber.picture.blocks()


def test_a_replay_from_the_middle(cluster, subscriber):
    ask(cluster, prompt_of(31, 100))
    settle(cluster, subscriber)
    middle = subscriber.last - 3
    numbers = [number for number, _ in subscriber.replay(middle)]
    assert numbers == list(range(middle, subscriber.last + 1))
    assert subscriber.replay(subscriber.last + 1) == []
    assert cluster.metric("interlace_kv_event_replays_total", 'result="done"') >= 2


def test_a_coordinator_that_comes_back_begins_anew(cluster, subscriber):
    ask(cluster, prompt_of(41, 100))
    settle(cluster, subscriber)
    before = subscriber.last
    old = cluster.child("coordinator")
    os.kill(old, signal.SIGKILL)
    wait_until("the coordinator is another process",
               lambda: "coordinator" in cluster.processes() and cluster.child("coordinator") != old)
    wait_until("the rank attached again", lambda: cluster.up_metric("interlace_ranks_ready") == 1, 60)
    lost = over_grpc(cluster, before, before + 1)
    assert lost["code"] == "OUT_OF_RANGE" and "subscribe with 0" in lost["details"]
    tokens = ask(cluster, prompt_of(42, 100))
    more = itertools.count(1)

    def heard():
        """A publisher keeps nothing for a reader that is still on its way back: it hears of the next block."""
        ask(cluster, prompt_of(42, 100) + " 7" * (40 * next(more)))
        return subscriber.subscriber.poll(500)
    wait_until("the reader is connected again", heard)
    settle(cluster, subscriber)
    assert subscriber.last >> 20 > before >> 20
    texts = {text for text, _ in subscriber.picture.blocks().values()}
    assert tuple(tokens[:BLOCK]) in texts and all(text[:BLOCK] == tuple(tokens[:BLOCK]) for text in texts)
    picture = Picture()
    apply_grpc(over_grpc(cluster, 0, subscriber.last), picture)
    assert picture.blocks() == subscriber.picture.blocks()
