"""Overlays on this machine: their pods start, are ready, serve, survive each other and drain, as their manifests say."""
import signal
import threading

import pytest
from manifests import OVERLAYS, overlay
from places import wait_until
from pods import Node



def runs_here(name: str) -> bool:
    """No GPU, and no API server of Kubernetes: who leads by a Lease is what election_kubernetes_test looks at."""
    values = overlay(name).settings()
    return values.get("engine.backend") != "cuda" and values.get("election.backend") != "kubernetes"


HERE = [name for name in OVERLAYS if runs_here(name)]


@pytest.fixture(params=HERE)
def node(request, tmp_path, model):
    made = Node(request.param, tmp_path / "node", model)
    yield made
    made.close()


def start(node: Node):
    """All at once, but for the coordinator, for which ranks wait. What containers before them left in a pod counts for nothing."""
    workers, stores = node.of_role("worker"), node.of_role("kvstore")
    for container in workers + stores:
        next(folder for path, folder in container.mounts.items() if path == "/run/interlace").joinpath(
            container.manifest["args"][1].rsplit("/", 1)[1]).write_text("of a former process\n")
        assert container.passes("startupProbe")
        container.start()
    for container in workers:
        container.await_probe("startupProbe", passes=False)
    for container in node.of_role("coordinator"):
        container.start()
    for container in node.containers:
        container.await_probe("startupProbe")
        container.await_probe("readinessProbe")


def check_start_serve_and_drain(node: Node, ask):
    start(node)
    (coordinator,), workers, (store,) = node.of_role("coordinator"), node.of_role("worker"), node.of_role("kvstore")
    assert coordinator.passes("livenessProbe")
    assert node.metric("interlace_ranks_ready") == len(workers)
    whole = ask(node.http, 40)

    said = []
    asking = threading.Thread(target=lambda: said.append(ask(node.http, 40)))
    asking.start()
    wait_until("the request runs", lambda: node.metric("vllm:num_requests_running") == 1)
    hooks = [worker.hook() for worker in workers]  # everything goes at once
    coordinator.send()
    asking.join(timeout=30)
    assert said == [whole], "what runs is finished, by all ranks"
    assert coordinator.await_end() == 0
    assert [worker.await_end() for worker in workers] == [0] * len(workers), "the coordinator let them go"
    assert [hook.wait(timeout=10) for hook in hooks] == [0] * len(hooks), "nobody waits for what has gone"
    store.send()
    assert store.await_end() == 0


def test_pods_start_serve_and_drain(node, ask):
    check_start_serve_and_drain(node, ask)


@pytest.mark.parametrize("node", ["cpu-demo"], indirect=True)
def test_probes_follow_what_happens(node, ask):
    start(node)
    (coordinator,), workers = node.of_role("coordinator"), node.of_role("worker")
    text = ask(node.http)
    workers[1].send(signal.SIGKILL)
    workers[1].await_end()
    coordinator.await_probe("readinessProbe", passes=False)
    assert coordinator.passes("livenessProbe"), "it is not killed for a rank that is missing"
    workers[1].start()
    for container in (workers[1], coordinator):
        container.await_probe("readinessProbe")
    assert ask(node.http) == text

    coordinator.send(signal.SIGKILL)
    coordinator.await_end()
    for worker in workers:
        worker.await_probe("readinessProbe", passes=False)
    coordinator.start()
    for container in [coordinator, *workers]:
        container.await_probe("readinessProbe")
    assert ask(node.http) == text
    workers[0].send()
    workers[0].await_end()
    assert not workers[0].passes("readinessProbe"), "a rank that is told to stop leaves no ready file"
