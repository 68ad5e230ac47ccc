"""Two coordinators of one cluster, which one etcd chooses between: the standby goes on where the leader ended."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import grpc
import pytest

from cluster import BIN, model_path, wait_until

PROMPT = "The history of the printing press begins in the fifteenth century, when"
TOKENS = 150


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asked(url: str):
    """Status, headers and JSON of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)
    except OSError:
        return 0, {}, {}


class Pair:
    """etcd, two coordinators, one rank; each a process of its own."""

    def __init__(self, *settings: str):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-test-")
        self.state = pathlib.Path(self.folder.name)
        (self.state / "secret").write_text(os.urandom(32).hex())
        (self.state / "secret").chmod(0o600)
        self.processes = {}
        self.etcd = f"127.0.0.1:{free_port()}"
        peers = f"http://127.0.0.1:{free_port()}"
        self.run("etcd", "etcd", "--data-dir", str(self.state / "etcd"), "--name", "one", "--initial-cluster", f"one={peers}",
                 "--listen-client-urls", f"http://{self.etcd}", "--advertise-client-urls", f"http://{self.etcd}",
                 "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers)
        self.settings = [*settings, f"model.path={model_path()}", f"cluster.secret_file={self.state / 'secret'}"]
        self.doors = {}
        for name in ("a", "b"):
            self.start_coordinator(name)
        for name in ("a", "b"):
            self.read_doors(name)
        everyone = ",".join(doors["cluster"] for doors in self.doors.values())
        self.start("rank", "worker", f"cluster.coordinator={everyone}")
        self.grpc = ",".join(doors["grpc"] for doors in self.doors.values())
        wait_until("one leads and has its rank", self.leader, 60)

    def run(self, name, *command):
        with open(self.state / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def start(self, name, program, *settings, ready=False):
        command = [str(BIN / f"interlace-{program}")]
        for setting in (*self.settings, *settings):
            command += ["--set", setting]
        if ready:
            command += ["--ready-file", str(self.state / f"{name}.ready")]
        self.run(name, *command)

    def start_coordinator(self, name):
        (self.state / f"{name}.ready").unlink(missing_ok=True)
        former = self.doors.get(name, {"cluster": "127.0.0.1:0", "http": ":0", "grpc": ":0"})
        self.start(name, "coordinator", "election.backend=etcd", f"election.endpoints={self.etcd}",
                   f"cluster.listen={former['cluster']}", f"server.http_port={former['http'].rsplit(':', 1)[1]}",
                   f"server.grpc_port={former['grpc'].rsplit(':', 1)[1]}", ready=True)

    def read_doors(self, name):
        path = self.state / f"{name}.ready"
        wait_until(f"{name} opens its doors", path.exists)
        self.doors[name] = dict(line.split("=", 1) for line in path.read_text().split())

    def url(self, name):
        return "http://" + self.doors[name]["http"]

    def leader(self):
        """The name of the one that is ready; empty: none is."""
        ready = [name for name in self.doors if asked(self.url(name) + "/ready")[0] == 200]
        assert len(ready) < 2, "two are ready"
        return ready[0] if ready else ""

    def other(self, name):
        return "b" if name == "a" else "a"

    def client(self):
        from interlace_client import Client
        return Client(self.grpc)

    def log(self):
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.state.glob("*.log")))

    def stop(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def pair():
    pair = Pair()
    yield pair
    pair.stop()


@pytest.fixture(scope="module")
def expected(pair):
    """What nobody disturbs."""
    with pair.client() as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        stream.text()
        assert stream.tries <= 2, "but for finding the leader"
        return stream.token_ids


def stream_over(pair, act):
    """A stream in whose middle act() happens; it, and the longest wait for a token from then on."""
    with pair.client() as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        acted, longest, before = False, 0.0, 0.0
        for _ in stream:
            if acted:
                longest = max(longest, time.monotonic() - before)
            if not acted and len(stream.token_ids) >= 40:
                act()
                acted = True
            before = time.monotonic()
        return stream, longest


def test_standby_is_well_and_names_the_leader(pair):
    leader = wait_until("one leads", pair.leader)
    standby = pair.other(leader)
    status, _, health = asked(pair.url(standby) + "/health")
    assert (status, health["status"]) == (200, "standby")
    assert asked(pair.url(standby) + "/ready")[0] == 503
    request = urllib.request.Request(pair.url(standby) + "/v1/completions", data=b'{"prompt": "x", "max_tokens": 1}',
                                     headers={"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 503 and refused.value.headers["retry-after"]
    assert refused.value.headers["x-interlace-leader"] == pair.doors[leader]["http"]
    error = json.load(refused.value)["error"]
    assert error["code"] == "not_leader" and pair.doors[leader]["http"] in error["message"]
    from interlace_client import Client
    with Client(pair.doors[standby]["grpc"]) as client, pytest.raises(grpc.RpcError) as refused:
        client.generate("x", max_tokens=1, retries=0).text()
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert ("x-interlace-leader", pair.doors[leader]["grpc"]) in [tuple(m) for m in refused.value.trailing_metadata()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_stream_goes_on_at_the_standby(pair, expected, how):
    leader = wait_until("one leads", pair.leader)
    victim = pair.processes[leader]
    stream, longest = stream_over(pair, lambda: os.kill(victim.pid, how))
    assert stream.token_ids == expected
    assert pair.leader() == pair.other(leader), "it was really cut"
    print(f"\n{how.name}: {longest:.2f} s to the next token")
    # The former leader comes back as standby, whether it was frozen or is a new process.
    if how == signal.SIGSTOP:
        os.kill(victim.pid, signal.SIGCONT)
    else:
        victim.wait()
        pair.start_coordinator(leader)
    wait_until("it stands by", lambda: asked(pair.url(leader) + "/health")[2].get("status") == "standby")
    assert pair.leader() == pair.other(leader)


def test_rolling_restart_hands_the_lead_over(pair, expected):
    """SIGTERM: what runs is finished, the lead is given back, and the other one has it without waiting for a lease."""
    leader = wait_until("one leads", pair.leader)
    with pair.client() as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        texts = iter(stream)
        next(texts)
        pair.processes[leader].terminate()
        tries = stream.tries
        for _ in texts:
            pass
        assert stream.token_ids == expected and stream.tries == tries
        assert pair.processes[leader].wait(timeout=60) == 0
        again = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        again.text()
        assert again.token_ids == expected
    assert pair.processes["rank"].poll() is None, "ranks stay for the next leader"
    assert pair.leader() == pair.other(leader)
    pair.start_coordinator(leader)


def test_store_away_and_back(pair, expected):
    """etcd stands still for longer than a lease: nobody acts, nobody loses a stream that can wait, and it goes on."""
    wait_until("one leads", pair.leader)
    etcd = pair.processes["etcd"].pid

    def freeze():
        os.kill(etcd, signal.SIGSTOP)

    with pair.client() as client:
        stream = client.generate(PROMPT, max_tokens=TOKENS, temperature=0)
        thawed = False
        for _ in stream:
            if len(stream.token_ids) >= 20 and not thawed:
                freeze()
                wait_until("nobody leads", lambda: not pair.leader())
                os.kill(etcd, signal.SIGCONT)
                thawed = True
        assert stream.token_ids == expected
    wait_until("one leads again", pair.leader)
