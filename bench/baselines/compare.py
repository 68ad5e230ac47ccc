#!/usr/bin/env python3
"""interlace beside other engines: interleaved rounds on the same file, with the same threads, against the ceilings of
the machine in the same round. Standard library only; compare.sh builds what it needs and calls it.

One round: probe the ceilings, then every engine measures every case; the order of engines rotates. Reported are medians
over rounds: tokens/s, percent of the limit (the longer of memory and arithmetic time of the work, under the ceilings
of the round), and the ratio ours / theirs of each round with its quartiles. A round is dropped when its read bandwidth
is more than a tenth below the run's median, or when the hypervisor took more than 2 % of the time.
"""
import argparse
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

OURS = "interlace"
STEPS = 32  # tokens of a sequence in one decode measurement
CASES = {  # name on the command line: (kind, sequences, tokens)
    "decode-1-16": ("decode", 1, 16),
    "decode-1-2000": ("decode", 1, 2000),
    "prefill-512": ("prefill", 1, 512),
    "prefill-4096": ("prefill", 1, 4096),
    "decode-8-256": ("decode", 8, 256),
    "decode-32-256": ("decode", 32, 256),
    "prefill-32x256": ("prefill", 32, 256),
}
QUICK = ["decode-1-16", "prefill-512", "decode-8-256"]


def label(case):
    kind, batch, tokens = CASES[case]
    if kind == "decode":
        return f"decode {batch} at {tokens}"
    return f"prefill {tokens}" if batch == 1 else f"prefill {batch}x{tokens}"


def quantile(values, q):
    values = sorted(values)
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def median(values):
    return quantile(values, 0.5) if values else float("nan")


def run(command, threads, stderr=subprocess.PIPE):
    """Standard output of a command whose threads stay on the first cores; with stderr=STDOUT, of both together."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    command = [str(c) for c in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if done.returncode != 0:
        raise SystemExit(f"compare: {' '.join(command)} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def stolen_seconds():
    fields = pathlib.Path("/proc/stat").read_text().split("\n")[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


class Interlace:
    def __init__(self, args, model):
        self.name, self.args, self.model = OURS, args, model
        self.rows = {}

    def measure(self, cases):
        shapes = {"decode": [], "prefill": []}
        for case in cases:
            kind, batch, tokens = CASES[case]
            shapes[kind].append(f"{batch}x{tokens}")
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [self.args.interlace, "bench", "model", self.model, "--prompt", ",".join(shapes["prefill"]),
                       "--decode", ",".join(shapes["decode"]), "--steps", STEPS, "--rounds", 1, "--threads",
                       self.args.threads, "--ops", self.args.ops, "--json", out.name]
            if not shapes["decode"]:
                command += ["--context", ""]
            for setting in self.args.set:
                command += ["--set", setting]
            run(command, self.args.threads)
            report = json.load(open(out.name))
        self.rows = {row["name"]: row for row in report["rows"]}
        return {case: self.rows[label(case)]["rounds"][0]["tokens_per_s"] for case in cases}


class LlamaBench:
    """llama-bench for single sequences; llama-batched-bench, in the same folder, for several. Where that is missing,
    those cases are left out. Forks lack some flags: what --help does not name is asked for in the older way."""

    def __init__(self, name, program, args, model):
        self.name, self.program, self.args, self.model = name, pathlib.Path(program), args, model
        self.batched = self.program.parent / "llama-batched-bench"
        self.has_depth = "--n-depth" in self.told(self.program, "--help")

    def told(self, *command):
        """Everything a command prints, whatever it thinks of its flags."""
        return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout

    def single(self, kind, tokens):
        if kind == "prefill":
            shape = ["-p", tokens, "-n", 0]
        else:
            shape = ["-p", 0, "-n", STEPS, "-d", tokens] if self.has_depth else ["-p", 0, "-n", 0, "-gp", f"{tokens},{STEPS}"]
        out = run([self.program, "-m", self.model, "-t", self.args.threads, "-r", 1, "-o", "json", *shape,
                   *self.args.llama_flag], self.args.threads)
        return json.loads(out)[0]["avg_ts"]

    def several(self, batch, tokens):
        """Speeds (prefill, decode)."""
        command = [self.batched, "-m", self.model, "-t", self.args.threads, "-c", batch * (tokens + STEPS) + 256, "-npp",
                   tokens, "-ntg", STEPS, "-npl", batch]
        out = run(command, self.args.threads, stderr=subprocess.STDOUT)  # a fork prints its table to the one, others to the other
        lines = [line.split("|") for line in out.splitlines() if "|" in line]
        heading = next(at for at, line in enumerate(lines) if "S_TG t/s" in map(str.strip, line))
        row = dict(zip(map(str.strip, lines[heading]), lines[heading + 2]))
        return float(row["S_PP t/s"]), float(row["S_TG t/s"])

    def measure(self, cases):
        results = {}
        for case in cases:
            kind, batch, tokens = CASES[case]
            if batch == 1:
                results[case] = self.single(kind, tokens)
        for batch, tokens in sorted({CASES[case][1:] for case in cases if CASES[case][1] > 1}):
            if not self.batched.exists():
                continue
            speeds = self.several(batch, tokens)
            for case in cases:
                if CASES[case][1:] == (batch, tokens):
                    results[case] = speeds[0 if CASES[case][0] == "prefill" else 1]
        return results


class Vllm:
    """vllm_bench.py in its own environment; stopped by signal while others run."""

    def __init__(self, python, args, model, cases):
        self.name = "vLLM (BF16)"
        wanted = {"prefill": [], "decode": []}
        for case in cases:
            kind, batch, tokens = CASES[case]
            wanted[kind].append(f"{batch}x{tokens}")
        command = [python, str(pathlib.Path(__file__).parent / "vllm_bench.py"), model, "--threads", str(args.threads),
                   "--prefill", ",".join(wanted["prefill"]), "--decode", ",".join(wanted["decode"]), "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        print("compare: vLLM compiles and warms up (minutes)", file=sys.stderr)
        if not self.process.stdout.readline():
            raise SystemExit("compare: vLLM did not start; run bench/baselines/vllm_bench.py to see why")
        os.killpg(self.process.pid, signal.SIGSTOP)

    def measure(self, cases):
        os.killpg(self.process.pid, signal.SIGCONT)
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("compare: vLLM ended")
        os.killpg(self.process.pid, signal.SIGSTOP)
        row = json.loads(line)
        return {case: row[label(case)] for case in cases}

    def close(self):
        os.killpg(self.process.pid, signal.SIGCONT)
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def probe(args):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        ops = [] if args.ops == "auto" else ["--ops", args.ops]
        run([args.interlace, "bench", "ceilings", "--threads", str(args.threads), "--rounds", "1", "--json", out.name, *ops],
            args.threads)
        return json.load(open(out.name))["rounds"][0]


def limit(row, ceilings):
    """Tokens/s that the work of a row of ours allows under the ceilings."""
    work = row["work"]
    seconds = max(work["bytes"] / ceilings["read_bytes_per_s"],
                  work["int8_ops"] / ceilings["int8_per_s"] + work["float_ops"] / ceilings["fma_per_s"])
    return work["tokens"] / seconds


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def measure_model(model, args, cases):
    engines = [Interlace(args, model)]
    for entry in args.llama_bench:
        name, _, program = entry.partition("=")
        if not pathlib.Path(program).exists():
            raise SystemExit(f"compare: --llama-bench {entry}: write NAME=PROGRAM; {program or '(nothing)'} is not there")
        engines.append(LlamaBench(name, program, args, model))
    if args.vllm:
        engines.append(Vllm(args.vllm, args, model, cases))
    rounds = []
    try:
        for number in range(args.rounds):
            stolen, begin = stolen_seconds(), time.monotonic()
            entry = {"ceilings": probe(args), "engines": {}, "order": []}
            for at in range(len(engines)):
                engine = engines[(at + number) % len(engines)]
                progress(f"{pathlib.Path(model).name}: round {number + 1} of {args.rounds}, {engine.name}")
                entry["engines"][engine.name] = engine.measure(cases)
                entry["order"].append(engine.name)
            taken = (time.monotonic() - begin) * (os.cpu_count() or 1)
            entry["stolen_share"] = (stolen_seconds() - stolen) / taken
            entry["limits"] = {case: limit(engines[0].rows[label(case)], entry["ceilings"]) for case in cases}
            rounds.append(entry)
    finally:
        for engine in engines:
            if isinstance(engine, Vllm):
                engine.close()
    progress("")
    reads = median([r["ceilings"]["read_bytes_per_s"] for r in rounds])
    for r in rounds:
        r["kept"] = r["ceilings"]["read_bytes_per_s"] >= 0.9 * reads and r["stolen_share"] <= 0.02
    disturbed = not any(r["kept"] for r in rounds)
    if disturbed:  # all are shown, and the report says so
        for r in rounds:
            r["kept"] = True
    hashes = {case: engines[0].rows[label(case)]["logits_hash"] for case in cases}
    return {"model": model, "engines": [e.name for e in engines], "rounds": rounds, "disturbed": disturbed,
            "logits_hash": hashes}


def summarise(result, cases):
    """Rows of (case, engine, tok/s, quartiles, percent of the limit, ratio ours/theirs and its quartiles)."""
    kept = [r for r in result["rounds"] if r["kept"]]
    rows = []
    for case in cases:
        for engine in result["engines"]:
            pairs = [(r, r["engines"][engine][case]) for r in kept if case in r["engines"][engine]]
            if not pairs:
                continue
            speeds = [speed for _, speed in pairs]
            shares = [100 * speed / r["limits"][case] for r, speed in pairs]
            ratios = [r["engines"][OURS][case] / speed for r, speed in pairs]
            rows.append({"case": label(case), "engine": engine, "tokens_per_s": median(speeds),
                         "quartiles": [quantile(speeds, 0.25), quantile(speeds, 0.75)], "percent_of_limit": median(shares),
                         "ratio": median(ratios), "ratio_quartiles": [quantile(ratios, 0.25), quantile(ratios, 0.75)]})
    return rows


def cells(row):
    ratio = "" if row["engine"] == OURS else "{:.2f}x ({:.2f}-{:.2f})".format(row["ratio"], *row["ratio_quartiles"])
    return [row["case"], row["engine"], f"{row['tokens_per_s']:.1f}", "{:.1f}-{:.1f}".format(*row["quartiles"]),
            f"{row['percent_of_limit']:.0f} %", ratio]


HEADING = ["case", "engine", "tok/s", "quartiles", "of limit", "interlace / it"]


def print_table(rows):
    table = [HEADING] + [cells(row) for row in rows]
    widths = [max(len(line[c]) for line in table) for c in range(len(HEADING))]
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for number, line in enumerate(table):
        text = "  ".join(cell.rjust(w) if 2 <= c <= 4 else cell.ljust(w) for c, (cell, w) in enumerate(zip(line, widths)))
        bold = colour and (number == 0 or line[1] == OURS)
        print(f"\033[1m{text}\033[0m" if bold else text)


def ceilings_line(result):
    kept = [r["ceilings"] for r in result["rounds"] if r["kept"]]
    dropped = len(result["rounds"]) - len(kept)
    return "ceilings, median: read {:.1f} GB/s, F32 {:.0f} GFLOP/s, int8 {:.0f} GOP/s; {} rounds, {} dropped{}".format(
        median([c["read_bytes_per_s"] for c in kept]) / 1e9, median([c["fma_per_s"] for c in kept]) / 1e9,
        median([c["int8_per_s"] for c in kept]) / 1e9, len(result["rounds"]), dropped,
        "; ALL were disturbed, none dropped" if result["disturbed"] else "")


def markdown(report):
    lines = [f"# interlace beside other engines", "", f"{report['date']}, {report['cpu']}, {report['threads']} threads, "
             f"ops {report['ops']}. Interleaved rounds, medians; the ratio is taken in each round.", ""]
    for result in report["models"]:
        lines += [f"## {pathlib.Path(result['model']).name}", "", ceilings_line(result) + ".", "",
                  "| " + " | ".join(HEADING) + " |", "|" + "---|" * len(HEADING)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in result["summary"]]
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="GGUF file")
    parser.add_argument("--interlace", required=True, help="our program")
    parser.add_argument("--llama-bench", action="append", default=[], metavar="NAME=PROGRAM",
                        help="a llama-bench, of llama.cpp or a fork; may be given several times")
    parser.add_argument("--llama-flag", action="append", default=[], help="passed on to each llama-bench")
    parser.add_argument("--vllm", metavar="PYTHON", help="the Python that fetch_vllm.sh prints")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ops", default="auto", help="our op table")
    parser.add_argument("--set", action="append", default=[], metavar="field=value", help="a setting of ours")
    parser.add_argument("--cases", default=",".join(CASES), help="of: " + ", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="fewer cases: " + ", ".join(QUICK))
    parser.add_argument("--out", default="bench-compare", help="folder for compare.json and compare.md")
    args = parser.parse_args()
    cases = QUICK if args.quick else [c for c in args.cases.split(",") if c]
    for case in cases:
        if case not in CASES:
            parser.error(f"--cases {case} is unknown; known: {', '.join(CASES)}")
    if args.rounds < 1:
        parser.error("--rounds is at least 1")
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n")
                if line.startswith("model name")), "unknown CPU")
    report = {"date": datetime.date.today().isoformat(), "cpu": cpu, "threads": args.threads, "ops": args.ops,
              "settings": args.set, "models": []}
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        result = measure_model(model, args, cases)
        result["summary"] = summarise(result, cases)
        report["models"].append(result)
        print(f"{pathlib.Path(model).name}: {cpu}, {args.threads} threads, ops {args.ops}")
        print_table(result["summary"])
        print(ceilings_line(result) + "\n")
        (out / "compare.json").write_text(json.dumps(report, indent=1))
        (out / "compare.md").write_text(markdown(report))
    print(f"compare: wrote {out}/compare.json and {out}/compare.md", file=sys.stderr)


if __name__ == "__main__":
    main()
