"""`interlace serve`: how the processes of a cluster begin, come back and end."""
import json
import os
import signal
import subprocess
import tempfile
import threading
import urllib.request

import grpc
import pytest

from cluster import BIN, Cluster, model_path, wait_until

QUESTION = "1 2 3 4"
ANSWER = " 5 6 7 8"


def answers(cluster) -> bool:
    from interlace_client import Client
    with Client(cluster.grpc) as client:
        return client.generate(QUESTION, max_tokens=8, temperature=0).text() == ANSWER


def is_alive(pid: int) -> bool:
    """Zombies, whom nobody reaps in a container without an init, are dead."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("settings", [["log.level=warning"], ["log.level=error", "log.format=json"],
                                      ["log.format=json"]])
def test_any_log_will_do(settings):
    cluster = Cluster("--pp", "2", *[word for setting in settings for word in ("--set", setting)])
    try:
        assert answers(cluster)
    finally:
        cluster.stop()


@pytest.mark.parametrize("flags, reason", [
    (["--pp", "99999999999"], "cluster.stages='99999999999' is out of range"),
    (["--pp", "31"], "cluster.stages=31 is more than the 30 layers"),
    (["--tp", "2"], "9 heads that share 3 KV heads cannot be split over 2 tensor-parallel ranks"),
    (["--sp", "2", "--tp", "3"], "cluster.sequence_ranks=2 with cluster.tensor_ranks=3: ranks share a stage by rows or by heads"),
    (["--sp", "0"], "cluster.sequence_ranks='0' is out of range"),
    (["--keep-layers", "99"], "kv.keep_layers=99 is more than the 30 layers"),
    (["--draft-model", "/nowhere.gguf"], "engine.draft_model=/nowhere.gguf"),
    (["--draft-model", model_path(), "--pp", "2"], "runs the whole model alone, and there are 2 ranks"),
    (["--set", "sched.speculate=draft-model"], "give --draft-model MODEL"),
    (["--set", "kv.tiers=,"], "kv.tiers=',' has an empty entry"),
    (["--set", "cluster.rank_timeout=0s"], "cluster.rank_timeout='0s' is out of range"),
    (["--set", "request.max_body=0"], "request.max_body='0' is out of range"),
])
def test_nonsense_is_refused_before_anything_starts(flags, reason):
    with tempfile.TemporaryDirectory(prefix="interlace-test-") as state:
        done = subprocess.run([str(BIN / "interlace"), "serve", model_path(), "--port", "0", "--grpc-port", "0", "--state",
                               state, *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and reason in done.stderr, done.stderr
        assert not os.listdir(state)


def test_output_that_is_lost_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(BIN / "interlace"), "config"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and "standard output cannot be written" in done.stderr, done.stderr


def test_run_makes_at_least_one_token():
    done = subprocess.run([str(BIN / "interlace"), "run", model_path(), "-p", "a", "-n", "0"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode != 0 and "--max-tokens" in done.stderr, done.stderr


def test_all_die_with_serve():
    cluster = Cluster("--pp", "2", "--kvstore")
    children = [cluster.child(name) for name in ("coordinator", "worker-0", "worker-1", "kvstore")]
    assert all(is_alive(pid) for pid in children)
    cluster.process.kill()
    cluster.process.wait()
    try:
        wait_until("no child is left", lambda: not any(is_alive(pid) for pid in children), 20)
    finally:
        for pid in filter(is_alive, children):
            os.kill(pid, signal.SIGKILL)


def test_a_rank_is_started_again_however_often():
    cluster = Cluster("--pp", "2", "--keep-layers", "15")
    try:
        for _ in range(7):
            old = cluster.child("worker-1")
            os.kill(old, signal.SIGKILL)
            wait_until("the rank is another process", lambda: "worker-1" in cluster.processes()
                       and cluster.child("worker-1") != old, 60)
            wait_until("the rank is back", lambda: cluster.metric("interlace_ranks_ready") == 2, 60)
        assert answers(cluster)
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_coordinator_killed():
    cluster = Cluster("--pp", "2", "--keep-layers", "15")
    try:
        ranks = [cluster.child("worker-0"), cluster.child("worker-1")]
        old = cluster.child("coordinator")
        os.kill(old, signal.SIGKILL)
        wait_until("the coordinator is another process", lambda: "coordinator" in cluster.processes()
                   and cluster.child("coordinator") != old)
        wait_until("the ranks attached again", lambda: cluster.up_metric("interlace_ranks_ready") == 2, 60)
        assert answers(cluster)  # at the doors of before
        assert ranks == [cluster.child("worker-0"), cluster.child("worker-1")]  # with their weights
        cluster.await_nothing_held()
    finally:
        cluster.stop()


def test_what_the_coordinator_learned_of_the_machine_is_kept():
    cluster = Cluster()
    try:
        assert answers(cluster)
        cluster.process.send_signal(signal.SIGINT)
        assert cluster.process.wait(timeout=60) == 0, cluster.log()
        assert (cluster.state / "costs").read_text().strip()
    finally:
        cluster.kill()


def test_answers_that_a_drain_does_not_wait_for_say_so():
    """The drain waits 30 s; what runs longer ends with an error that the client can tell from an answer, at both doors."""
    from interlace_client import Client
    cluster = Cluster()
    body = json.dumps({"prompt": QUESTION, "n": 4, "max_tokens": 7000, "temperature": 0, "ignore_eos": True, "stream": True})
    request = urllib.request.Request(cluster.http + "/v1/completions", data=body.encode(),
                                     headers={"Content-Type": "application/json"})
    with Client(cluster.grpc) as client, urllib.request.urlopen(request, timeout=60) as answer:
        stream = client.generate(QUESTION, max_tokens=7000, temperature=0, ignore_eos=True, retries=0)
        next(iter(stream))
        assert answer.readline().startswith(b"data: {")
        stopper = threading.Thread(target=cluster.stop)
        stopper.start()
        events = answer.read().decode().strip().split("\n\n")
        assert "error" in json.loads(events[-2].removeprefix("data: ")) and events[-1] == "data: [DONE]", events[-3:]
        with pytest.raises(grpc.RpcError) as end:
            for _ in stream:
                pass
        assert end.value.code() == grpc.StatusCode.UNAVAILABLE and "stopped before" in end.value.details()
        stopper.join()
