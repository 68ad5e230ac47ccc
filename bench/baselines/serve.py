#!/usr/bin/env python3
"""Interlace beside other servers: one load generator, the same requests, the same cores, round by round.

One round: for each load, every server in turn is brought up, asked at every rate and brought down; the order of servers
rotates. The requests of one (load, rate, round) are the same for all servers and new in every round, so no prefix cache
knows them. Goodput is what `interlace bench serve` calls it: answers per second that met TTFT and TPOT. The generator
runs on the servers' cores, as their clients: its CPU time is in every result. serve.sh builds what this needs.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

from compare import median, progress, quantile, stolen_seconds
from servers import Interlace, Llama, Vllm, end_on_signal

LOADS = {
    # 256 tokens in, 64 out.
    "fixed": ["--dataset", "synthetic", "--input-tokens", "256", "--output-tokens", "64"],
    # Lengths as in ShareGPT's first turns, tokens at random: with --sharegpt its texts.
    "chat": ["--dataset", "synthetic", "--input-tokens", "lognormal:90:1.1", "--output-tokens", "lognormal:140:0.8"],
    # A system prompt of 1,000 tokens, one of eight, then 64 of the request's own.
    "prefix": ["--dataset", "prefix", "--groups", "8", "--shared-tokens", "1000", "--input-tokens", "64",
               "--output-tokens", "64"],
}
FIGURES = {  # key of a result: (heading, format)
    "request_throughput": ("req/s", "{:.2f}"), "request_goodput": ("goodput/s", "{:.2f}"), "good_share": ("met", "{:.0%}"),
    "mean_ttft_ms": ("TTFT mean", "{:.0f} ms"), "p99_ttft_ms": ("p99", "{:.0f} ms"), "mean_tpot_ms": ("TPOT mean", "{:.1f} ms"),
    "p99_tpot_ms": ("p99", "{:.1f} ms"), "p99_largest_gap_ms": ("gap p99", "{:.0f} ms"), "output_throughput": ("tok/s", "{:.0f}"),
    "hit_rate": ("hits", "{:.0%}"),
}


class Generator:
    """`interlace bench serve` on the servers' cores."""

    def __init__(self, args):
        self.args = args

    def load(self, name):
        if name == "chat" and self.args.sharegpt:
            return ["--dataset", f"sharegpt:{self.args.sharegpt}", "--skip-damaged", "--ignore-eos", "--protocol",
                    "openai-completions"]
        return LOADS[name]

    def run(self, server, load, extra, seed, path):
        cores = sorted(os.sched_getaffinity(0))[: self.args.threads]
        command = [self.args.interlace, "bench", "serve", "--url", server.url, "--label", server.name, *self.load(load),
                   "--ttft-slo", self.args.ttft_slo, "--tpot-slo", self.args.tpot_slo, "--duration", f"{self.args.duration}s",
                   "--warmup", self.args.warmup, "--seed", seed, "--json", path, *extra]
        command = [str(c) for c in command]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              preexec_fn=lambda: os.sched_setaffinity(0, cores))
        if not pathlib.Path(path).exists():
            raise SystemExit(f"serve: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return json.loads(pathlib.Path(path).read_text())


def figures(result):
    """Of one run: what is kept of it, besides the file."""
    ours = result["interlace"]
    row = {key: result.get(key) for key in FIGURES if key in result}
    row["good_share"] = ours["figures"]["good_share"]
    row["hit_rate"] = ours["figures"]["hit_rate"]
    row["p99_largest_gap_ms"] = ours["figures"]["latency_ms"]["largest_gap"].get("p99")
    for key in ("completed", "failed", "duration"):
        row[key] = result.get(key)
    row["valid"] = ours["figures"]["valid"]
    row["over_saturated"] = ours["run"]["over_saturated"]
    row["generator_cpu_s"] = ours["run"]["client_cpu"] / 1e9
    return row


def measure(args, servers, out):
    generator = Generator(args)
    runs, capacities = [], []
    rates = [float(r) for r in args.rates.split(",") if r]
    for number in range(args.rounds):
        for load_at, load in enumerate(args.loads):
            for at in range(len(servers)):
                server = servers[(at + number) % len(servers)]
                server.up()
                stolen = stolen_seconds()
                try:
                    for rate_at, rate in enumerate(rates):
                        progress(f"round {number + 1} of {args.rounds}, {load}, {server.name}, {rate:g}/s")
                        seed = 1 + number * 10000 + load_at * 1000 + rate_at * 10
                        path = out / f"{load}-{server.name}-{rate:g}-{number + 1}.json".replace(" ", "-")
                        result = generator.run(server, load, ["--rate", rate], seed, path)
                        runs.append({"load": load, "server": server.name, "rate": rate, "round": number + 1, "seed": seed,
                                     "file": path.name, "stolen_s": stolen_seconds() - stolen, **figures(result)})
                    if args.find_capacity and number == 0:
                        progress(f"capacity, {load}, {server.name}")
                        path = out / f"{load}-{server.name}-capacity.json".replace(" ", "-")
                        extra = ["--find-capacity", "--attainment", args.attainment, "--resolution", args.resolution]
                        result = generator.run(server, load, extra, 5000 + load_at, path)
                        found = result["interlace"]["capacity"]
                        capacities.append({"load": load, "server": server.name, "file": path.name, **found})
                finally:
                    server.down()
    progress("")
    return runs, capacities


def summarise(runs, servers):
    """A row for each (load, server, rate): medians over rounds; and the best goodput of each (load, server)."""
    rows, best = [], {}
    for load in dict.fromkeys(r["load"] for r in runs):
        for server in servers:
            mine = [r for r in runs if r["load"] == load and r["server"] == server.name]
            for rate in dict.fromkeys(r["rate"] for r in mine):
                of_rate = [r for r in mine if r["rate"] == rate]
                row = {"load": load, "server": server.name, "rate": rate, "rounds": len(of_rate),
                       "over_saturated": sum(r["over_saturated"] for r in of_rate), "not_valid": sum(not r["valid"] for r in of_rate),
                       "failed": sum(r["failed"] or 0 for r in of_rate)}
                for key in FIGURES:
                    values = [r[key] for r in of_rate if r.get(key) is not None]
                    row[key] = median(values) if values else None
                    row[key + "_quartiles"] = [quantile(values, 0.25), quantile(values, 0.75)] if values else None
                rows.append(row)
                if row["request_goodput"] is not None and row["request_goodput"] > best.get((load, server.name), (-1, 0))[0]:
                    best[load, server.name] = (row["request_goodput"], rate)
    ratios = []
    for (load, name), (goodput, rate) in best.items():
        ours = best.get((load, "interlace"), (0, 0))[0]
        ratios.append({"load": load, "server": name, "best_goodput": goodput, "at_rate": rate,
                       "interlace_over_it": ours / goodput if goodput > 0 else None})
    return rows, ratios


def table(rows):
    heading = ["load", "server", "rate"] + [title for title, _ in FIGURES.values()] + ["notes"]
    lines = [heading]
    for row in rows:
        notes = [f"{row['over_saturated']} of {row['rounds']} over-saturated"] if row["over_saturated"] else []
        notes += [f"{row['not_valid']} not valid"] if row["not_valid"] else []
        notes += [f"{row['failed']} failed"] if row["failed"] else []
        cells = ["-" if row[key] is None else form.format(row[key]) for key, (_, form) in FIGURES.items()]
        lines.append([row["load"], row["server"], f"{row['rate']:g}", *cells, ", ".join(notes)])
    return lines


def show(lines):
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(w) if c in (0, 1) else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths))).rstrip())


def summary_lines(ratios, capacities):
    lines = [["load", "server", "best goodput/s", "at rate", "interlace / it", "capacity/s"]]
    for r in ratios:
        found = next((c for c in capacities if (c["load"], c["server"]) == (r["load"], r["server"])), None)
        capacity = "-" if found is None else f"{found['rate']:.2f} ({found['low']:.2f}-{found['high'] or float('inf'):.2f})"
        ratio = "-" if r["interlace_over_it"] is None else f"{r['interlace_over_it']:.2f}x"
        best = ["-", "-"] if r["best_goodput"] is None else [f"{r['best_goodput']:.2f}", f"{r['at_rate']:g}"]
        lines.append([r["load"], r["server"], *best, ratio, capacity])
    return lines


def markdown(report, *tables):
    lines = ["# Interlace beside other servers", "", f"{report['date']}, {report['cpu']}, {report['threads']} threads, "
             f"{report['rounds']} rounds of {report['duration']} s, targets TTFT {report['ttft_slo']}, TPOT {report['tpot_slo']}.", ""]
    for name, command in report["commands"].items():
        lines.append(f"- {name}: `{command}`")
    for rows in tables:
        lines += ["", "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    return "\n".join(lines) + "\n"


def pages(args, servers, runs, out):
    """For each load a page with a line for each server, and Interlace compared with each peer."""
    def tool(*arguments):
        subprocess.run([args.interlace, "bench", *map(str, arguments)], stdout=subprocess.DEVNULL, check=False)

    for load in dict.fromkeys(r["load"] for r in runs):
        files = {s.name: [out / r["file"] for r in runs if (r["load"], r["server"]) == (load, s.name)] for s in servers}
        tool("page", *[f for some in files.values() for f in some], "--html", out / f"{load}.html", "--title", f"Servers, {load} load")
        for name, some in files.items():
            merged = out / f"{load}-{name}.json".replace(" ", "-")
            tool("page", *some, "--json", merged)
            if name != "interlace":
                against = str(out / f"{load}-{name}-against-interlace").replace(" ", "-")
                tool("compare", merged, out / f"{load}-interlace.json", "--json", against + ".json", "--html", against + ".html")


def make_servers(args, out):
    servers = [Interlace(args.interlace, args.model, args.set, args.threads, out)]
    if args.llama_server:
        for slots in (int(n) for n in args.llama_slots.split(",")):
            servers.append(Llama(args.llama_server, args.model, slots, args.threads, out))
    if args.vllm_python:
        servers.append(Vllm(args.vllm_python, args.model, args.threads, out))
    return servers


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="GGUF file")
    parser.add_argument("--interlace", required=True, help="our program; interlace-coordinator and -worker lie beside it")
    parser.add_argument("--llama-server", metavar="PROGRAM", help="llama.cpp's server (serve.sh: --llama)")
    parser.add_argument("--llama-slots", default="16,4", help="a column for each number of slots (-np)")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="the Python that fetch_vllm.sh prints (serve.sh: --vllm)")
    parser.add_argument("--load", default="fixed", help="of: " + ", ".join(LOADS))
    parser.add_argument("--sharegpt", metavar="FILE", help="texts of the chat load, in place of the synthetic ones")
    parser.add_argument("--rates", default="1,2,4,8", help="requests/s; empty: none, as with --find-capacity alone")
    parser.add_argument("--duration", type=float, default=30, help="seconds of sending at each rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=8, help="requests before each run that count for nothing")
    parser.add_argument("--find-capacity", action="store_true", help="search for each server's capacity, in the first round")
    parser.add_argument("--attainment", type=float, default=0.95, help="share of requests that must meet both targets there")
    parser.add_argument("--resolution", type=float, default=0.1, help="how near the search comes")
    parser.add_argument("--ttft-slo", default="1s")
    parser.add_argument("--tpot-slo", default="50ms")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", action="append", default=[], metavar="field=value", help="a setting of ours")
    parser.add_argument("--out", default="bench-serve", help="folder for everything that is written")
    args = parser.parse_args()
    args.loads = [name for name in args.load.split(",") if name]
    for name in args.loads:
        if name not in LOADS:
            parser.error(f"--load {name} is unknown; known: {', '.join(LOADS)}")
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    return args


def main():
    args = parse()
    end_on_signal()
    out = pathlib.Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    servers = make_servers(args, out)
    try:
        runs, capacities = measure(args, servers, out)
    finally:
        for server in servers:
            server.end()
    rows, ratios = summarise(runs, servers)
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n")
                if line.startswith("model name")), "unknown CPU")
    report = {"date": datetime.date.today().isoformat(), "cpu": cpu, "threads": args.threads, "rounds": args.rounds,
              "duration": args.duration, "ttft_slo": args.ttft_slo, "tpot_slo": args.tpot_slo,
              "commands": {s.name: " ".join(s.command) for s in servers}, "runs": runs, "summary": rows, "best": ratios,
              "capacity": capacities}
    tables = [table(rows), summary_lines(ratios, capacities)] if rows else [summary_lines(
        [{"load": c["load"], "server": c["server"], "best_goodput": None, "at_rate": None, "interlace_over_it": None}
         for c in capacities], capacities)]
    for lines in tables:
        show(lines)
        print()
    (out / "serve.json").write_text(json.dumps(report, indent=1))
    (out / "serve.md").write_text(markdown(report, *tables))
    pages(args, servers, runs, out)
    print(f"serve: wrote {out}/serve.json, serve.md and a page for each load", file=sys.stderr)


if __name__ == "__main__":
    main()
