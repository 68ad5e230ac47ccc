"""Every listening socket of a cluster: where it is, and that nobody who is not of the cluster changes anything by it."""
import contextlib
import os
import pathlib
import random
import socket
import ssl
import stat
import struct
import subprocess
import tempfile
import threading

import pytest

from cluster import BIN, Cluster, model_path, run_ids, wait_until

PROMPT = "The history of the printing press begins in the fifteenth century, when"
TOKENS = 60
NAMES = ("coordinator", "worker-0", "worker-1", "kvstore")


def listening(pid: int) -> list[tuple[str, int]]:
    """Address and port of each TCP socket on which the process listens, out of the system's table."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().split("\n")[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[3] != "0A" or fields[9] not in inodes:
                continue
            address, port = fields[1].split(":")
            words = b"".join(bytes.fromhex(address[at:at + 8])[::-1] for at in range(0, len(address), 8))
            # gRPC's sockets are of IPv6 and take IPv4 too; of "every address" they are of both kinds.
            found.append((socket.inet_ntop(family, words).removeprefix("::ffff:"), int(port, 16)))
    return sorted(found)


def resident(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def expected():
    return run_ids(PROMPT, TOKENS, "--keep-layers", "30")


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--kvstore")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


class Streams:
    """Clients that go on asking, each stream compared with the text that is right, while the body of `with` runs."""

    def __init__(self, grpc_address: str, expected: list[int], clients: int = 2):
        from interlace_client import Client
        self.done, self.wrong, self.stopping = 0, [], threading.Event()

        def ask():
            with Client(grpc_address) as client:
                while not self.stopping.is_set():
                    try:
                        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
                        stream.text()
                        if stream.token_ids != expected:
                            self.wrong.append(stream.token_ids)
                    except Exception as error:  # noqa: BLE001: any end but a whole answer is wrong
                        self.wrong.append(error)
                    self.done += 1

        self.threads = [threading.Thread(target=ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        before = self.done
        wait_until("streams went on", lambda: self.done > before, 120)
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.wrong, self.wrong[:3]


def say(port: int, *pieces: bytes, hold: float = 0, reset: bool = False):
    """One connection, whatever the other side does with it."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(hold or 0.05)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for piece in pieces:
            connection.sendall(piece)
        connection.recv(4096)


def client_hello() -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="interlace-cluster").do_handshake()
    return outgoing.read()


def frame(kind: int, header: bytes = b"", header_bytes: int | None = None, body_bytes: int = 0) -> bytes:
    """Of our transport (transport/wire_frame.h)."""
    return struct.pack("<IHHIIQQQ16x", 0x324B4C49, kind, 5, len(header) if header_bytes is None else header_bytes, 0,
                       body_bytes, 0, 0) + header


def http2(*frames: tuple[int, int, int, bytes]) -> bytes:
    """The preface and frames of type, flags, stream and payload."""
    said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for kind, flags, stream, payload in frames:
        said += len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    return said


def garbage(seed: int) -> list[tuple[bytes, ...]]:
    chance = random.Random(seed)
    greeting = frame(1, chance.randbytes(40) + bytes(8))
    settings = (4, 0, 0, b"")
    return [
        (b"\xff" * 64,), (b"\0" * 10000,), (chance.randbytes(64),), (chance.randbytes(20000),), (b"",),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",), (b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{",),
        (client_hello(),), (client_hello()[:50],), (client_hello(), chance.randbytes(1000)), (b"\x16\x03\x01\xff\xff",),
        (http2(),), (http2(settings),), (http2(settings)[:20],), (http2((0, 1, 1, chance.randbytes(500))),),
        (http2(settings, (1, 4, 1, chance.randbytes(200))),), (http2(settings) + b"\xff\xff\xff\0\0\0\0\0\1",),
        (greeting,), (greeting[:70],), (greeting, frame(3, b"p" * 32)), (frame(3, b"p" * 32),), (frame(2, b"w" * 100),),
        (frame(5, b"s" * 16, body_bytes=1 << 40), b"x" * 1000), (frame(5, header_bytes=1 << 31), b"x" * 1000),
        (frame(4),), (frame(99, b"?"),), (greeting, greeting), (greeting, chance.randbytes(3000)),
    ]


def undisturbed(cluster, before: dict[str, int], losses: float):
    assert {name: cluster.child(name) for name in NAMES} == before, "a process was started again:\n" + cluster.log()
    assert cluster.metric("interlace_replica_losses_total") == losses, cluster.log()
    assert cluster.metric("interlace_ranks_ready") == 2


def test_sockets_are_where_they_were_told_and_nowhere_else(cluster):
    doors = dict(line.split("=", 1) for line in (cluster.state / "coordinator.ready").read_text().split())
    store = (cluster.state / "kvstore.ready").read_text().strip().removeprefix("address=")
    ports = {name: listening(cluster.child(name)) for name in NAMES}
    told = sorted(("127.0.0.1", int(doors[door].rsplit(":", 1)[1])) for door in ("http", "grpc", "cluster"))
    assert ports["coordinator"] == told
    assert ("127.0.0.1", int(store.rsplit(":", 1)[1])) in ports["kvstore"] and len(ports["kvstore"]) == 2
    assert len(ports["worker-0"]) == len(ports["worker-1"]) == 1
    assert {address for found in ports.values() for address, _ in found} == {"127.0.0.1"}
    assert listening(cluster.process.pid) == []


def test_doors_that_are_opened_to_the_network_open_nothing_else():
    cluster = Cluster("--host", "0.0.0.0", "--kvstore")
    try:
        doors = dict(line.split("=", 1) for line in (cluster.state / "coordinator.ready").read_text().split())
        wide = {int(doors[door].rsplit(":", 1)[1]) for door in ("http", "grpc")}
        for name in ("coordinator", "worker-0", "kvstore"):
            for address, port in listening(cluster.child(name)):
                assert address in (("0.0.0.0", "::") if port in wide else ("127.0.0.1",)), (name, address, port)
    finally:
        cluster.stop()


def test_the_secret_is_the_owners_alone_and_shown_nowhere(cluster):
    secret = cluster.state / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    text = secret.read_text().strip()
    assert len(text) == 64
    assert text not in cluster.log()
    for pid in [cluster.process.pid] + [cluster.child(name) for name in NAMES]:
        for shown in ("cmdline", "environ"):
            assert text.encode() not in pathlib.Path(f"/proc/{pid}/{shown}").read_bytes()


@pytest.mark.parametrize("program, settings, named", [
    ("interlace-coordinator", ["cluster.listen=0.0.0.0:0"], "cluster.listen"),
    ("interlace-worker", ["transport.host=0.0.0.0"], "transport.host"),
    ("interlace-kvstore", ["kvstore.listen=0.0.0.0:0"], "kvstore.listen"),
    ("interlace-kvstore", ["kvstore.listen=127.0.0.1:0", "transport.host=0.0.0.0"], "transport.host"),
])
def test_without_a_secret_nothing_listens_beyond_loopback(program, settings, named):
    command = [str(BIN / program), "--set", f"model.path={model_path()}"]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert all(text in done.stderr for text in (named, "cluster.secret_file", "cluster.insecure")), done.stderr


def test_garbage_on_every_port_changes_nothing(cluster, expected):
    before = {name: cluster.child(name) for name in NAMES}
    losses = cluster.metric("interlace_replica_losses_total")
    ports = [port for pid in before.values() for _, port in listening(pid)]
    assert len(ports) == 7
    with Streams(cluster.grpc, expected):
        for seed, port in enumerate(ports):
            for pieces in garbage(seed):
                say(port, *pieces)
            for _ in range(50):
                say(port)
                say(port, b"x", reset=True)
    undisturbed(cluster, before, losses)
    for rank in ("rank-0", "rank-1"):
        wait_until(f"the coordinator knows what {rank} refused",
                   lambda: cluster.metric("interlace_refused_peers_total", f'cause="garbage",port="{rank}"') > 0)
        assert cluster.metric("interlace_refused_peers_total", f'cause="wrong_key",port="{rank}"') > 0


def test_a_crowd_on_every_port_is_outlived(cluster, expected):
    """A thousand connections at once that say nothing, at each port."""
    before = {name: cluster.child(name) for name in NAMES}
    losses = cluster.metric("interlace_replica_losses_total")
    memory = {name: resident(pid) for name, pid in before.items()}
    with Streams(cluster.grpc, expected):
        for pid in before.values():
            for _, port in listening(pid):
                with contextlib.ExitStack() as crowd:
                    for _ in range(1000):
                        with contextlib.suppress(OSError):
                            crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
                    most = {name: resident(p) - memory[name] for name, p in before.items()}
                    assert max(most.values()) < 256 << 20, most
    undisturbed(cluster, before, losses)
    grown = {name: (resident(pid) - memory[name]) >> 20 for name, pid in before.items()}
    print("MiB grown:", grown)
    assert max(grown.values()) < 128, grown


class Eavesdropper:
    """Carries one server's connections on, and keeps what clients say."""

    def __init__(self, to: str):
        self.host, self.port = to.rsplit(":", 1)
        self.heard: list[bytearray] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                server = socket.create_connection((self.host, int(self.port)))
                heard = bytearray()
                self.heard.append(heard)
                threading.Thread(target=self._carry, args=(client, server, heard), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, None), daemon=True).start()

    @staticmethod
    def _carry(source, to, heard):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if heard is not None:
                    heard += piece
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)

    def replay(self):
        """All that was heard, each connection's anew and at once."""
        held = []
        for heard in list(self.heard):
            connection = socket.create_connection((self.host, int(self.port)))
            with contextlib.suppress(OSError):
                connection.sendall(bytes(heard))
            held.append(connection)
        return held


class ByHand:
    """Coordinator, kvstore and one rank, whose control connections somebody listens in on."""

    def __init__(self, *settings: str):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-test-")
        self.state = pathlib.Path(self.folder.name)
        self.settings = [*settings, f"model.path={model_path()}", "kv.keep_layers=15"]
        self.processes = {}
        self.start("coordinator", "cluster.listen=127.0.0.1:0", "server.http_port=0", "server.grpc_port=0", ready=True)
        self.start("kvstore", "kvstore.listen=127.0.0.1:0", ready=True)
        self.doors = self.ready("coordinator")
        self.to_coordinator = Eavesdropper(self.doors["cluster"])
        self.to_kvstore = Eavesdropper(self.ready("kvstore")["address"])
        self.start("worker", f"cluster.coordinator={self.to_coordinator.address}", f"kv.remote={self.to_kvstore.address}",
                   "kv.tiers=remote")
        self.http, self.grpc = f"http://{self.doors['http']}", self.doors["grpc"]
        wait_until("the rank is there", lambda: self.up_metric("interlace_ranks_ready") == 1, 60)

    metric, up_metric = Cluster.metric, Cluster.up_metric

    def start(self, name, *settings, ready=False):
        command = [str(BIN / f"interlace-{name}")]
        for setting in (*self.settings, *settings):
            command += ["--set", setting]
        if ready:
            command += ["--ready-file", str(self.state / f"{name}.ready")]
        with open(self.state / f"{name}.log", "w") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def ready(self, name):
        path = self.state / f"{name}.ready"
        wait_until(f"{name} is ready", path.exists)
        return dict(line.split("=", 1) for line in path.read_text().split())

    def log(self):
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.state.glob("*.log")))

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=60)
        self.folder.cleanup()


@pytest.mark.parametrize("secret", [True, False])
def test_what_was_recorded_and_is_said_again_changes_nothing(expected, secret, tmp_path):
    """Registration and attach, as an eavesdropper heard them, while their streams stand and after; with TLS and in the
    clear, where the bytes mean again what they meant."""
    settings = []
    if secret:
        (tmp_path / "secret").write_text(os.urandom(32).hex())
        (tmp_path / "secret").chmod(0o600)
        settings = [f"cluster.secret_file={tmp_path / 'secret'}"]
    cluster = ByHand(*settings)
    try:
        wait_until("both were heard", lambda: cluster.to_coordinator.heard and cluster.to_kvstore.heard)
        clear = b"interlace.v1.Cluster" in bytes(cluster.to_coordinator.heard[0])
        assert clear != secret, "whether what travels can be read"
        with Streams(cluster.grpc, expected) as streams:
            for _ in range(3):
                held = cluster.to_coordinator.replay() + cluster.to_kvstore.replay()
                before = streams.done
                wait_until("streams went on beside them", lambda: streams.done > before + 1, 60)
                assert cluster.metric("interlace_ranks_ready") == 1
                for connection in held:
                    connection.close()
        if not secret:
            assert cluster.metric("interlace_refused_peers_total", 'cause="replayed"') >= 3
        assert cluster.metric("interlace_replica_losses_total") == 0, cluster.log()
        assert all(process.poll() is None for process in cluster.processes.values()), cluster.log()
    finally:
        cluster.stop()
