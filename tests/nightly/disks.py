"""Tiers of a cluster that serves: their folders stay within their bounds, a full disk stops nobody, a foreign folder is
refused. Mounts a small file system, so it needs root; without it that part is left out and said so.
"""
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

from soak import BIN, PATIENT, Ask, Cluster, Reader, Summary, corpus, model_path, sampling, say, slices, undisturbed, wait_until

MODEL = "smollm2-135m"
BOUND = 16 << 20


def size(folder: pathlib.Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                pass  # files come and go under RocksDB
    return total


class Watch(threading.Thread):
    """The largest that each folder was."""

    def __init__(self, folders: list):
        super().__init__(daemon=True)
        self.largest, self.over = dict.fromkeys(folders, 0), threading.Event()

    def run(self):
        while not self.over.is_set():
            for folder in self.largest:
                self.largest[folder] = max(self.largest[folder], size(folder))
            time.sleep(0.005)


def asks_of(rng: random.Random) -> list:
    """Prompts that differ, so that tiers have to give up what they hold."""
    text = corpus()
    return [Ask(slices(rng, text, rng.randrange(500, 3000)), sampling(rng, i, 20)) for i in range(40)]


def serve(asks: list, seed: int, flags: list, during) -> tuple:
    """Four streams while during(cluster) runs; how many were right, wrong, cut."""
    cluster = Cluster("--pp", "2", "--keep-layers", "15", "--device-kv", "32MiB", "--host-kv", "64MiB", "--kvstore",
                      "--set", "kv.tiers=rocksdb,remote", *PATIENT, *flags, model=MODEL)
    over = threading.Event()
    readers = [Reader(i, cluster.http, asks, seed * 100 + i, lambda *_: False, over) for i in range(4)]
    try:
        for reader in readers:
            reader.start()
        during(cluster, readers)
        over.set()
        for reader in readers:
            reader.join(120)
        cluster.await_nothing_held()
    except BaseException:
        over.set()
        say(cluster.log())
        cluster.kill()
        raise
    cluster.stop()
    return sum(r.good for r in readers), sum(len(r.wrong) for r in readers), sum(len(r.cuts) for r in readers)


def await_streams(readers: list, count: int):
    """Until `count` more streams are right."""
    goal = sum(reader.good for reader in readers) + count
    wait_until(f"{count} more streams", lambda: sum(reader.good for reader in readers) >= goal, 600)


def bounds(summary: Summary, asks: list, seed: int, folder: pathlib.Path):
    ranks, store = folder / "ranks", folder / "store"
    watch = Watch([ranks / "stage-0", ranks / "stage-1", store])
    reported = []

    def during(cluster, readers):
        watch.start()
        for _ in range(8):
            await_streams(readers, 10)
            reported.extend(cluster.metric("interlace_kv_tier_bytes", f'stage="{stage}",tier="rocksdb"') for stage in (0, 1))

    good, wrong, cut = serve(asks, seed, ["--rocksdb", str(ranks), "--set", f"kv.rocksdb_bytes={BOUND}", "--set",
                                          f"kvstore.rocksdb_dir={store}", "--set", f"kvstore.rocksdb_bytes={BOUND}"], during)
    watch.over.set()
    watch.join()
    summary.row(f"largest folders of two ranks and a kvstore bound to {BOUND}", ", ".join(map(str, watch.largest.values())),
                max(watch.largest.values()) <= BOUND and min(watch.largest.values()) > BOUND / 4)
    summary.row("most that a rank reported", f"{max(reported):.0f}", 0 < max(reported) <= BOUND)
    summary.row("streams beside it right, wrong, cut", f"{good}, {wrong}, {cut}", wrong == 0 and cut == 0)


def fill(filler: pathlib.Path):
    """Takes what room the disk has."""
    with open(filler, "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass


def stored(cluster: Cluster) -> list:
    return [cluster.metric("interlace_kv_tier_bytes", f'stage="{stage}"') for stage in (0, 1)]


def full_disk(summary: Summary, asks: list, seed: int, folder: pathlib.Path):
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=False).returncode != 0:
        summary.row("a full disk", "left out: mounting is not allowed here")
        return
    seen = {}

    def during(cluster, readers):
        await_streams(readers, 20)
        filler = folder / "filler"
        fill(filler)
        # A rank that starts while the disk is full serves without it.
        os.kill(cluster.child("worker-1"), signal.SIGKILL)
        for _ in range(20):
            await_streams(readers, 1)
            fill(filler)
        seen["free"] = os.statvfs(folder).f_bavail
        words = ("could not write", "stopped taking writes", "could not make room", "no room")
        seen["said"] = [line for path in cluster.state.glob("*.log") for line in path.read_text().split("\n")
                        if any(word in line for word in words)]
        filler.unlink()
        await_streams(readers, 20)
        before = stored(cluster)
        wait_until("the tiers take blocks again", lambda: stored(cluster) != before, 120)

    try:
        good, wrong, cut = serve(asks, seed, ["--rocksdb", str(folder / "ranks"), "--set", "kv.rocksdb_bytes=32MiB", "--set",
                                              f"kvstore.rocksdb_dir={folder}/store", "--set",
                                              "kvstore.rocksdb_bytes=32MiB"], during)
        summary.row("a full disk: free blocks, lines of the logs about it", f"{seen['free']}, {len(seen['said'])}",
                    len(seen["said"]) > 0)
        for line in seen["said"][:3]:
            say(line)
        summary.row("a full disk: streams right, wrong, cut", f"{good}, {wrong}, {cut}", wrong == 0 and cut == 0)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def foreign_folder(summary: Summary, folder: pathlib.Path):
    theirs = folder / "stage-0"
    theirs.mkdir(parents=True)
    (theirs / "letter.txt").write_text("not a block")
    with tempfile.TemporaryDirectory(prefix="interlace-nightly-") as state:
        done = subprocess.run([str(BIN / "interlace"), "serve", model_path(MODEL), "--port", "0", "--grpc-port", "0",
                               "--state", state, "--rocksdb", str(folder)], capture_output=True, text=True, timeout=120)
    kept = os.listdir(theirs) == ["letter.txt"] and (theirs / "letter.txt").read_text() == "not a block"
    summary.row("a foreign folder", "refused, not touched" if kept else "touched",
                kept and done.returncode == 1 and "holds files that are not ours" in done.stderr)


def main() -> int:
    seed = int(os.environ.get("SEED", "1"))
    summary, rng = Summary("disks"), random.Random(seed)
    asks = asks_of(rng)
    undisturbed(asks, MODEL)
    with tempfile.TemporaryDirectory(prefix="interlace-nightly-") as folder:
        path = pathlib.Path(folder)
        foreign_folder(summary, path / "foreign")
        bounds(summary, asks, seed, path / "bounds")
        full_disk(summary, asks, seed, path / "full")
    return summary.end()


if __name__ == "__main__":
    raise SystemExit(main())
