"""Hosts of a test: network namespaces on one bridge, and processes of a cluster on them."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from cluster import BIN, model_path, series_sum, wait_until

HERE = pathlib.Path(__file__).resolve().parent


def why_no_hosts() -> str:
    """Why network namespaces cannot be had here; empty: they can."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which root alone can make"
    for tool in ("ip", "bridge", "nsenter"):
        if shutil.which(tool) is None:
            return f"hosts are network namespaces: {tool} is missing (apt-get install iproute2 util-linux)"
    try:
        with Network() as network, socket.create_server((network.here, 0)) as reached:
            network.host("probe")
            call("nsenter", f"--net=/run/netns/{network.space('probe')}", sys.executable, "-c",
                 f"import socket; socket.create_connection(('{network.here}', {reached.getsockname()[1]}), 10)")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {' '.join(error.cmd)}: {error.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces are not allowed here: {error}"
    return ""


def call(*command: str):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


class Network:
    """Hosts with an address each, joined by a bridge that is in a namespace of its own. This process is on it, too, by
    its own address `here`. Links are cut at the bridge, so that no end is told: what is sent is lost, as by a pulled
    cable behind a switch. Owned by one test; not thread-safe but for cut and heal of different hosts."""

    _made = 0

    def __init__(self):
        Network._made += 1
        self._name = f"il{os.getpid()}x{Network._made}"
        self._subnet = f"198.18.{(os.getpid() + Network._made) % 250}"  # of the block for tests of networks, RFC 2544
        self.here = f"{self._subnet}.254"
        self.addresses = {}  # of hosts by their names
        self._links = []     # processes of slow links
        self._spaces = []
        try:
            self._add_space("switch")
            self._ip("switch", "link", "add", "bridge", "type", "bridge")
            self._ip("switch", "link", "set", "bridge", "up")
            call("ip", "link", "add", self._name, "mtu", "9000", "type", "veth", "peer", "name", "p-here", "mtu", "9000",
                 "netns", self.space("switch"))
            call("ip", "addr", "add", f"{self.here}/24", "dev", self._name)
            call("ip", "link", "set", self._name, "up")
            self._ip("switch", "link", "set", "p-here", "master", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_):
        self.close()

    def space(self, name: str) -> str:
        """The namespace of a host."""
        return f"{self._name}-{name}"

    def host(self, name: str, delay: float = 0, rate: float = 0) -> str:
        """Adds a host and gives its address. With a delay (seconds, each way) or a rate (bytes a second, each way; 0: any)
        its link is a process, slow_link.py."""
        address = f"{self._subnet}.{len(self.addresses) + 1}"
        self._add_space(name)
        port = f"p-{name}"[:15]
        if delay or rate:
            link = subprocess.Popen([sys.executable, str(HERE / "slow_link.py"), self.space(name), self.space("switch"), port,
                                     str(delay), str(rate)], stdout=subprocess.PIPE, text=True)
            self._links.append(link)
            assert link.stdout.readline() == "ready\n", "the slow link did not start"
        else:
            self._ip("switch", "link", "add", port, "mtu", "9000", "type", "veth", "peer", "name", "eth0", "mtu", "9000",
                     "netns", self.space(name))
        self._ip(name, "link", "set", "lo", "up")
        self._ip(name, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip(name, "link", "set", "eth0", "mtu", "9000", "up")
        self._ip("switch", "link", "set", port, "mtu", "9000", "master", "bridge", "up")
        self.addresses[name] = address
        return address

    def cut(self, name: str):
        """Nothing reaches the host, and nothing that it sends reaches anybody; its own processes reach each other."""
        self._port(name, "0")

    def heal(self, name: str):
        self._port(name, "3")

    def cut_between(self, one: str, other: str):
        """The two do not reach each other; everybody else reaches both."""
        self.cut_way(one, other)
        self.cut_way(other, one)

    def cut_way(self, sender: str, receiver: str):
        """What `sender` sends to `receiver` is lost."""
        self._ip(sender, "neigh", "replace", self.addresses[receiver], "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud",
                 "permanent")

    def heal_between(self, one: str, other: str):
        self.heal_way(one, other)
        self.heal_way(other, one)

    def heal_way(self, sender: str, receiver: str):
        self._ip(sender, "neigh", "del", self.addresses[receiver], "dev", "eth0")

    def close(self):
        for link in self._links:
            link.terminate()
            link.wait()
        subprocess.run(["ip", "link", "del", self._name], check=False, capture_output=True)
        for name in self._spaces:
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)

    def _add_space(self, name: str):
        call("ip", "netns", "add", self.space(name))
        self._spaces.append(name)

    def _ip(self, name: str, *arguments: str):
        call("ip", "-n", self.space(name), *arguments)

    def _port(self, name: str, state: str):
        """State 3 forwards, 0 does nothing at all."""
        call("bridge", "-n", self.space("switch"), "link", "set", "dev", f"p-{name}"[:15], "state", state)


class Fleet:
    """Processes of one cluster, each on a host: coordinators a, b, ...; worker-REPLICA-STAGE; kvstore; and etcd if there are
    several coordinators. Each is started, hurt and started again by itself. `place` gives the host of a process; hosts that
    the network does not have yet are added. settings: of all of them; folder of RocksDB tiers: ranks and kvstore keep one.
    """

    def __init__(self, network: Network, *settings: str, stages: int = 1, replicas: int = 1, coordinators: int = 1,
                 kvstore: bool = True, rocksdb: str = "", place=lambda process: process, model: str = "smollm2-135m"):
        self.network, self.place, self.stages, self.replicas = network, place, stages, replicas
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-hosts-")
        self.state = pathlib.Path(self.folder.name)
        (self.state / "secret").write_text(os.urandom(32).hex())
        (self.state / "secret").chmod(0o600)
        self.coordinators = [f"coordinator-{letter}" for letter in "abc"[:coordinators]]
        self.workers = [f"worker-{replica}-{stage}" for replica in range(replicas) for stage in range(stages)]
        names = (["etcd"] if coordinators > 1 else []) + (["kvstore"] if kvstore else []) + self.coordinators + self.workers
        for name in names:
            if place(name) not in network.addresses:
                network.host(place(name))
        self.settings = {name: self._settings(name, kvstore, rocksdb) + list(settings) for name in names if name != "etcd"}
        for name in self.settings:
            self.settings[name] += [f"model.path={model_path(model)}"] if name != "kvstore" else []
        self.processes = {}
        try:
            for name in names:
                self.start(name)
            wait_until("the cluster is whole", self.whole, 90)
        except BaseException as error:
            log = self.log()
            self.kill()
            raise AssertionError(f"the cluster did not start:\n{log}") from error

    def address(self, name: str) -> str:
        return self.network.addresses[self.place(name)]

    @property
    def grpc(self) -> str:
        return ",".join(f"{self.address(name)}:50051" for name in self.coordinators)

    def url(self, coordinator: str) -> str:
        return f"http://{self.address(coordinator)}:8000"

    def start(self, name: str):
        """A process that does not run."""
        with open(self.state / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.network.space(self.place(name)), *self._command(name)], stdout=log,
                stderr=subprocess.STDOUT)

    def signal(self, name: str, number: int):
        os.kill(self.processes[name].pid, number)

    def kill_one(self, name: str):
        self.processes[name].kill()
        self.processes[name].wait()

    def leader(self) -> str:
        """Who leads; empty: nobody does."""
        leads = [name for name in self.coordinators if self.metric("interlace_leads", of=name) == 1]
        return leads[0] if len(leads) == 1 else ""

    def metric(self, name: str, having: str = "", of: str = "") -> float:
        """The series of a coordinator, by default the first; -1 while it does not answer."""
        try:
            return series_sum(self.url(of or self.coordinators[0]), name, having, 1)
        except OSError:
            return -1

    def ranks_ready(self) -> float:
        leader = self.coordinators[0] if len(self.coordinators) == 1 else self.leader()
        return self.metric("interlace_ranks_ready", of=leader) if leader else -1

    def whole(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}\n{self.log()}"
        return self.ranks_ready() == len(self.workers)

    def nothing_held(self) -> bool:
        leader = self.coordinators[0] if len(self.coordinators) == 1 else self.leader()
        return bool(leader) and self.metric("interlace_kv_blocks_held", of=leader) == 0 and self.metric(
            "vllm:num_requests_running", of=leader) == 0

    def said(self, name: str, words: str) -> int:
        """How many lines of a process's log say `words`."""
        return (self.state / f"{name}.log").read_text(errors="replace").count(words)

    def log(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(self.state.glob("*.log")))

    def stop(self):
        """Coordinators first, as they let their ranks go; each must end well."""
        codes = {}
        for name in sorted(self.processes, key=lambda name: (name == "etcd", name not in self.coordinators)):
            self.processes[name].send_signal(signal.SIGTERM)
            try:
                codes[name] = self.processes[name].wait(timeout=60)
            except subprocess.TimeoutExpired:
                codes[name] = "still there after 60 s"
        log = self.log()
        self.kill()
        codes.pop("etcd", None)
        assert not any(codes.values()), f"{codes}\n{log}"

    def kill(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.folder.cleanup()

    def _command(self, name: str) -> list:
        at = self.address(name)
        if name == "etcd":
            return ["etcd", "--data-dir", str(self.state / "etcd"), "--name", "one", "--initial-cluster", f"one=http://{at}:2380",
                    "--listen-client-urls", f"http://{at}:2379", "--advertise-client-urls", f"http://{at}:2379",
                    "--listen-peer-urls", f"http://{at}:2380", "--initial-advertise-peer-urls", f"http://{at}:2380"]
        command = [str(BIN / f"interlace-{name.split('-')[0]}")]
        for setting in self.settings[name]:
            command += ["--set", setting]
        return command

    def _settings(self, name: str, kvstore: bool, rocksdb: str) -> list:
        at, role = self.address(name), name.split("-")[0]
        settings = [f"cluster.secret_file={self.state / 'secret'}", f"cluster.stages={self.stages}",
                    f"cluster.replicas={self.replicas}"]
        if role == "coordinator":
            settings += [f"cluster.listen={at}:7070", f"server.host={at}", f"coordinator.state={self.state / name}.state"]
            if len(self.coordinators) > 1:
                settings += ["election.backend=etcd", f"election.endpoints={self.address('etcd')}:2379"]
        elif role == "kvstore":
            settings += [f"kvstore.listen={at}:7071"]
            settings += [f"kvstore.rocksdb_dir={rocksdb}/kvstore"] if rocksdb else []
        else:
            replica, stage = name.split("-")[1:]
            tiers = ["rocksdb"] * bool(rocksdb) + ["remote"] * kvstore
            settings += ["cluster.coordinator=" + ",".join(f"{self.address(c)}:7070" for c in self.coordinators),
                         f"cluster.replica={replica}", f"cluster.stage={stage}", "kv.tiers=" + ",".join(tiers)]
            settings += [f"kv.remote={self.address('kvstore')}:7071"] if kvstore else []
            settings += [f"kv.rocksdb_dir={rocksdb}/{name}"] if rocksdb else []
        return settings
