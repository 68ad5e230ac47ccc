"""A cluster of real processes for a test, and what a test asks of it."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = ROOT / os.environ.get("INTERLACE_BUILD", "out/dev") / "bin"


def model_path(name: str = "smollm2-135m") -> str:
    done = subprocess.run(["bash", str(ROOT / "deploy/fetch_model.sh"), name], capture_output=True, text=True, check=True)
    return done.stdout.strip().split("\n")[-1]


def wait_until(what: str, condition, seconds: float = 30):
    """Looks until condition() is true; fails naming `what`. Bounded, never a fixed sleep for an outcome."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def series_sum(url: str, name: str, having: str = "", timeout: float = 10) -> float:
    """Sum over all label values of a coordinator's series, or over those `having` a label such as stage="0"; 0 if there is
    none."""
    text = urllib.request.urlopen(url + "/metrics", timeout=timeout).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.split("\n")
               if (line.startswith(name + "{") or line.startswith(name + " ")) and having in line)


class Cluster:
    """`interlace serve` with free ports and a state folder of its own."""

    def __init__(self, *flags: str, model: str = "smollm2-135m"):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-test-")
        self.state = pathlib.Path(self.folder.name)
        self.output = open(self.state / "serve.out", "w+")
        command = [str(BIN / "interlace"), "serve", model_path(model), "--port", "0", "--grpc-port", "0",
                   "--state", str(self.state), *flags]
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)
        try:
            wait_until("the cluster is up", self._up, 60)
        except AssertionError:
            self.kill()
            raise AssertionError("the cluster did not start:\n" + self.log())
        doors = dict(line.split("=", 1) for line in (self.state / "coordinator.ready").read_text().split())
        self.http, self.grpc = f"http://{doors['http']}", doors["grpc"]

    def _up(self) -> bool:
        assert self.process.poll() is None, "serve ended:\n" + self.log()
        return "Ctrl-C" in (self.state / "serve.out").read_text()

    def log(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.state.glob("*.[lo][ou][gt]")))

    def metric(self, name: str, having: str = "") -> float:
        """As series_sum says."""
        return series_sum(self.http, name, having)

    def nothing_held(self) -> bool:
        """No request runs, and none holds KV; what is left is cache."""
        return self.metric("interlace_kv_blocks_held") == 0 and self.metric("vllm:num_requests_running") == 0

    def await_nothing_held(self):
        wait_until("every block was given back", self.nothing_held)

    def up_metric(self, name: str) -> float:
        """The same; -1 while nobody answers."""
        try:
            return self.metric(name)
        except OSError:
            return -1

    def processes(self) -> dict[str, str]:
        """Pid and arguments of each process of the cluster that runs, by names such as worker-1, coordinator, kvstore."""
        listed = subprocess.run(["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(self.process.pid)],
                                capture_output=True, text=True, check=False).stdout
        found = {}
        for line in listed.strip().split("\n"):
            words = line.split()
            if len(words) < 3 or words[1].startswith("Z") or "/interlace-" not in words[2]:
                continue
            name = words[2].rsplit("/interlace-", 1)[1]
            setting = {key: value for key, _, value in (word.partition("=") for word in words)}
            if name == "worker":
                stages, tensor_ranks, sequence_ranks = (
                    int(setting.get(f"cluster.{field}", 1)) for field in ("stages", "tensor_ranks", "sequence_ranks"))
                stage = int(setting["cluster.replica"]) * stages + int(setting["cluster.stage"])
                rank = stage * tensor_ranks * sequence_ranks + sum(
                    int(setting.get(f"cluster.{field}", 0)) for field in ("tensor_rank", "sequence_rank"))
                name = f"worker-{rank}"
            found[name] = line
        return found

    def child(self, name: str) -> int:
        """The pid of one process of the cluster, such as worker-1 or kvstore."""
        processes = self.processes()
        assert name in processes, f"no process {name} among:\n{processes}"
        return int(processes[name].split()[0])

    def stop(self):
        """Drains; the exit code must be 0 and no process may be left."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        log = self.log()
        self.output.close()
        self.folder.cleanup()
        assert code == 0, f"serve ended with {code}:\n{log}"

    def kill(self):
        subprocess.run(["pkill", "-KILL", "-P", str(self.process.pid)], check=False)
        self.process.kill()
        self.process.wait()


def run_ids(prompt: str, tokens: int, *flags: str, model: str = "smollm2-135m", timeout: float = 120):
    """Token ids of `interlace run` on a raw prompt."""
    done = subprocess.run([str(BIN / "interlace"), "run", model_path(model), "--raw", "--ids", "-n", str(tokens), "-p",
                           prompt, *flags], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


sys.path.insert(0, str(ROOT / "client/python"))
