#!/usr/bin/env python3
"""What the door, the scheduler and the plan stream cost: decode through HTTP beside `interlace bench model`.

    python3 bench/coordinator/doors.py MODEL.gguf [--bin out/release/bin] [--batch 1,16,32] [--rounds 5] [--apart]

Both decode N streams at the same mean context (prompt and half of the answer), in turn, round by round. Of a round through
HTTP only the time counts in which all N streams are under way. The client reads raw bytes and counts events; the
processor time that it takes is measured and taken off the wall clock, shared over the cores, since compute and client
share them. From the coordinator's /metrics comes how long ranks waited between two steps.

With --apart the rank, and `bench model`, compute with one thread on the first core, and everything else runs on the others,
as where an operator leaves a core to the doors: the client's time is then not taken off, since it takes nothing from the rank.
"""
import argparse
import json
import os
import pathlib
import re
import selectors
import socket
import statistics
import subprocess
import tempfile
import time

PROMPT, ANSWER, STEPS = 32, 160, 32


def serve(bin_dir, model, folder, flags):
    """A server on free ports; its process and its HTTP address."""
    command = [bin_dir / "interlace", "serve", model, "--port", "0", "--grpc-port", "0", "--state", folder, *flags]
    with open(pathlib.Path(folder) / "serve.out", "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    ready = pathlib.Path(folder) / "coordinator.ready"
    for _ in range(1200):
        if "Ctrl-C" in (pathlib.Path(folder) / "serve.out").read_text():
            fields = dict(line.split("=", 1) for line in ready.read_text().split())
            host, port = fields["http"].rsplit(":", 1)
            return process, (host, int(port))
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the server did not start:\n" + (pathlib.Path(folder) / "serve.out").read_text())


WORDS = "One winter the keeper of a small harbour began to write down what each ship had told him about the sea".split()


def processes_under(root):
    """The process ids of `root` and all below it."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        parents.setdefault(int(rest[1]), []).append(pid)
    found, at = [root], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


def set_apart(root):
    """The rank below the process `root` gets the first core alone, its other processes and this one the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("--apart needs two cores")
    ranks = 0
    for pid in [*processes_under(root), os.getpid()]:
        is_rank = pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("interlace-work")
        ranks += is_rank
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:1] if is_rank else cores[1:])
    if ranks != 1:
        raise SystemExit(f"--apart is for one rank; found {ranks}")
    return cores[0]


def ask(address, index, answer):
    prompt = " ".join(WORDS[(index + i * (index % 5 + 1)) % len(WORDS)] for i in range(PROMPT))
    body = json.dumps({"prompt": prompt, "stream": True, "max_tokens": answer, "ignore_eos": True, "temperature": 0})
    connection = socket.create_connection(address)
    connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def http_round(address, streams, answer=ANSWER):
    """Tokens a second while all streams are under way: plain, and with the client's processor time taken off."""
    selector = selectors.DefaultSelector()
    counts, tail = {}, {}
    for i in range(streams):
        connection = ask(address, i, answer)
        selector.register(connection, selectors.EVENT_READ)
        counts[connection], tail[connection] = 0, b""
    begin, ended = None, False
    while True:
        for key, _ in selector.select():
            bytes_ = key.fileobj.recv(1 << 16)
            if not bytes_:
                raise SystemExit(f"a stream ended early: {tail[key.fileobj][-300:]!r}")
            text = tail[key.fileobj] + bytes_
            if not tail[key.fileobj] and b" 200 OK\r\n" not in text[:32]:
                raise SystemExit(f"refused: {text[:400]!r}")
            counts[key.fileobj] += text.count(b"data: {")
            ended = ended or b"data: [DONE]" in text
            tail[key.fileobj] = text[-6:]
        if begin is None and min(counts.values()) >= 2:
            begin = time.perf_counter(), time.process_time(), sum(counts.values())
        if ended:
            if max(counts.values()) < 0.97 * answer:
                raise SystemExit(f"{max(counts.values())} events for {answer} tokens: events stand for several tokens")
            wall, client = time.perf_counter() - begin[0], time.process_time() - begin[1]
            tokens = sum(counts.values()) - begin[2]
            break
    for connection in counts:
        connection.close()
    return tokens / wall, tokens / (wall - client / os.cpu_count()), client / wall


def gaps(address):
    """The histogram of interlace_rank_gap_seconds: [(upper bound, count)], cumulative."""
    connection = socket.create_connection(address)
    connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = b""
    while chunk := connection.recv(1 << 16):
        text += chunk
    found = re.findall(r'interlace_rank_gap_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)', text.decode())
    return [(float(bound), int(count)) for bound, count in found]


def quantile(before, after, share):
    counts = [(bound, b - a) for (bound, b), (_, a) in zip(after, before)]
    return next((bound for bound, count in counts if count >= share * counts[-1][1]), float("inf"))


def model_round(bin_dir, model, batches, folder, core):
    """Tokens a second without doors; with one thread on `core` where one is given."""
    report = pathlib.Path(folder) / "model.json"
    apart = [] if core is None else ["taskset", "-c", str(core)]
    threads = [] if core is None else ["--threads", "1"]
    subprocess.run([*apart, bin_dir / "interlace", "bench", "model", model, "--prompt", "",
                    "--batch", ",".join(map(str, batches)),
                    "--context", str(PROMPT + ANSWER // 2 - STEPS // 2), "--rounds", "1", "--json", report, *threads],
                   check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def rates_of(report, batches):
    rates = [row["tokens_per_s"] for row in report["rows"]]
    return dict(zip(batches, rates))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("out/release/bin"))
    parser.add_argument("--batch", default="1,16,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="the rank alone on the first core, with one thread")
    parser.add_argument("--set", action="append", default=[], help="a setting of the server, NAME=VALUE")
    options = parser.parse_args()
    batches = [int(b) for b in options.batch.split(",")]
    settings = options.set + (["engine.threads=1"] if options.apart else [])
    flags = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        process, address = serve(options.bin, options.model, folder, flags)
        try:
            measure(options, batches, address, folder, set_apart(process.pid) if options.apart else None)
        finally:
            process.terminate()
            process.wait(60)


def measure(options, batches, address, folder, core):
    rows = {batch: [] for batch in batches}
    gap = {batch: [] for batch in batches}
    for batch in batches:
        http_round(address, batch)  # warm
    for _ in range(options.rounds):
        alone = rates_of(model_round(options.bin, options.model, batches, folder, core), batches)
        for batch in batches:
            before = gaps(address)
            plain, without, share = http_round(address, batch)
            after = gaps(address)
            if core is not None:
                without = plain
            rows[batch].append((alone[batch], plain, without, share, without / alone[batch]))
            gap[batch].append((quantile(before, after, 0.5), quantile(before, after, 0.99)))
    print(f"{'streams':>7} {'model':>8} {'HTTP':>8} {'client':>7} {'without':>8} {'ratio':>6} {'quartiles':>11}"
          f" {'gap p50':>9} {'p99':>9}")
    for batch in batches:
        alone, plain, without, share, ratio = map(statistics.median, zip(*rows[batch]))
        low, _, high = statistics.quantiles([row[4] for row in rows[batch]], n=4)
        p50, p99 = map(statistics.median, zip(*gap[batch]))
        print(f"{batch:>7} {alone:>8.1f} {plain:>8.1f} {100 * share:>5.1f} % {without:>8.1f} {ratio:>6.3f}"
              f" {low:>5.2f}-{high:.2f} {1e6 * p50:>6.0f} us {1e6 * p99:>6.0f} us")


if __name__ == "__main__":
    main()
