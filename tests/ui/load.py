"""A cluster with something to see: streams with targets and tenants that keep on coming."""
import json
import pathlib
import sys
import threading
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cluster"))
from cluster import BIN, Cluster, wait_until  # noqa: E402,F401

# Printable ASCII without blanks is a valid name of a request; this one would be seen as an element if it were HTML.
HOSTILE = "<img/src=x/onerror=document.title='owned'>"


class Load:
    """`streams` clients, each of which asks for the next answer when it has the last one. Stop with stop()."""

    def __init__(self, cluster: Cluster, streams: int = 6, prompt_tokens: int = 200, max_tokens: int = 400):
        self.address, self.stopping, self.served = cluster.http, threading.Event(), 0
        self.prompt_tokens, self.max_tokens = prompt_tokens, max_tokens
        self.threads = [threading.Thread(target=self._client, args=(i,), daemon=True) for i in range(streams)]
        for thread in self.threads:
            thread.start()

    def _client(self, i: int):
        turn = 0
        while not self.stopping.is_set():
            name = f"{HOSTILE}-{turn}" if i == 0 else f"client-{i}-turn-{turn}"
            words = " ".join(str((7 * i + n) % 1000) for n in range(self.prompt_tokens // 2))
            body = {"prompt": words, "max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                    "slo": {"ttft_ms": 300 if i % 2 else 60000, "largest_gap_ms": 2000}, "priority": i % 3,
                    "fairness_id": ["acme", "umbrella", ""][i % 3]}
            request = urllib.request.Request(self.address + "/v1/completions", data=json.dumps(body).encode(),
                                             headers={"Content-Type": "application/json", "x-request-id": name})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    for _ in answer:
                        if self.stopping.is_set():
                            return  # closes the connection: the request is cancelled
                self.served += 1
            except (OSError, urllib.error.URLError):
                self.stopping.wait(0.2)
            turn += 1

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=60)


def small_cluster() -> Cluster:
    """Two stages and little memory: layers stream, requests wait and are parked."""
    return Cluster("--pp", "2", "--device-kv", "12MiB", "--host-kv", "64MiB")


def state_of(cluster: Cluster) -> dict:
    return json.load(urllib.request.urlopen(cluster.http + "/ui/state", timeout=10))
