#!/usr/bin/env python3
"""`interlace bench serve` beside GuideLLM on one server: what each reports, and by how much they differ.

One round: each pattern of arrivals by both generators, one after the other; the order rotates. Prompts are common words,
as many in each, drawn anew for each run, so that no prefix cache knows them. Latencies are those that each tool reports
under its own names (GuideLLM calls TPOT "inter token latency"); requests/s is worked out alike for both: answers that
ended well, over the time from the first request sent to the last answer's end. Standard library only.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys

from compare import median, progress, quantile
from servers import Interlace, Server, end_on_signal

WORDS = ("the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one "
         "you were all her she there would their we him been has when who will no more if out so up said what its about than "
         "into them can only other time new some could these two may first then do any like my now over such our man me even "
         "most made after also well did many before must years back through much where your way down should because long "
         "each just state those people too world little good very make great still own see men work here get both between "
         "life being under three never know same last another while").split()
METRICS = ["requests/s", "TTFT mean", "TTFT p50", "TPOT mean", "E2EL mean"]


class Paced(Server):
    """tests/bench_serve/trivial_server.cc: answers at a pace that is known."""

    def __init__(self, program, pace, threads, folder):
        super().__init__("paced", threads, folder)
        self.program, self.pace = program, pace

    def arguments(self):
        return [self.program, self.port, *self.pace]


def write_prompts(path, count, words, output, seed):
    """JSON lines that both read: ours as gsm8k, GuideLLM by the names of the columns."""
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(draw.choice(WORDS) for _ in range(words))
            file.write(json.dumps({"question": text, "output_tokens_count": output}) + "\n")


def ours(args, server, prompts, pattern, seed, path):
    command = [args.programs / "interlace", "bench", "serve", "--url", server.url, "--protocol", "openai-completions", "--dataset",
               f"gsm8k:{prompts}", "--no-shuffle", "--output-tokens", args.output, "--ignore-eos", "--arrivals", pattern, "--rate",
               args.rate, "--requests", args.requests, "--seed", seed, "--keep-going", "--json", path]
    subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, check=True)
    result = json.loads(path.read_text())
    records = [r for r in result["interlace"]["records"] if r["outcome"] == "ok"]
    begin = min(r["sent"] for r in records) / 1e9
    end = max(r["ended"] for r in records) / 1e9
    return {"requests/s": len(records) / (end - begin), "TTFT mean": result["mean_ttft_ms"], "TTFT p50": result["median_ttft_ms"],
            "TPOT mean": result["mean_tpot_ms"], "E2EL mean": result["mean_e2el_ms"], "answers": len(records)}


def guidellm(args, server, prompts, pattern, seed, path):
    command = [args.guidellm, "run", "--backend", f"kind=openai_http,target={server.url},request_format=/v1/completions", "--data",
               f"kind=json_file,path={prompts}", "--profile", f"kind={pattern},rate={args.rate:g}", "--constraint",
               f"kind=max_requests,count={args.requests}", "--seed", f"kind=static,value={seed}", "--output",
               f"kind=json,path={path}", "--disable-console"]
    environment = {**os.environ, "GUIDELLM__MAX_WORKER_PROCESSES": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode != 0 or not path.exists():
        raise SystemExit(f"generator: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    benchmark = json.loads(path.read_text())["benchmarks"][0]
    metrics = benchmark["metrics"]
    requests = benchmark["requests"]["successful"]
    timings = [r["info"]["timings"] for r in requests]
    begin, end = min(t["request_start"] for t in timings), max(t["request_end"] for t in timings)

    def of(name, statistic="mean"):
        return metrics[name]["successful"][statistic]

    return {"requests/s": len(requests) / (end - begin), "TTFT mean": of("time_to_first_token_ms"),
            "TTFT p50": of("time_to_first_token_ms", "median"), "TPOT mean": of("inter_token_latency_ms"),
            "E2EL mean": 1000 * of("request_latency"), "answers": len(requests)}


def measure(args, server, out):
    rows = []
    for number in range(args.rounds):
        for pattern in args.patterns.split(","):
            results = {}
            tools = [("interlace", ours), ("guidellm", guidellm)]
            for at, (name, tool) in enumerate(tools[number % 2:] + tools[: number % 2]):
                progress(f"round {number + 1} of {args.rounds}, {pattern}, {name}")
                seed = 1 + 100 * number + 10 * at
                prompts = out / f"prompts-{pattern}-{number}-{name}.jsonl"
                write_prompts(prompts, args.requests, args.input, args.output, seed + len(pattern))
                path = out / f"{name}-{pattern}-{number}.json"
                path.unlink(missing_ok=True)
                results[name] = tool(args, server, prompts, pattern, 1 + number, path)
            rows.append({"round": number + 1, "pattern": pattern, **results})
    progress("")
    return rows


def summarise(rows):
    lines = [["arrivals", "figure", "interlace", "GuideLLM", "difference", "quartiles", "rounds"]]
    for pattern in dict.fromkeys(r["pattern"] for r in rows):
        mine = [r for r in rows if r["pattern"] == pattern]
        for metric in METRICS:
            a, b = [r["interlace"][metric] for r in mine], [r["guidellm"][metric] for r in mine]
            change = [100 * (x / y - 1) for x, y in zip(a, b)]
            unit = "" if metric == "requests/s" else " ms"
            lines.append([pattern, metric, f"{median(a):.3f}{unit}", f"{median(b):.3f}{unit}", f"{median(change):+.2f} %",
                          f"{quantile(change, 0.25):+.2f} to {quantile(change, 0.75):+.2f} %", str(len(mine))])
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="GGUF file that Interlace serves")
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder of interlace and trivial_server")
    parser.add_argument("--guidellm", required=True, help="its program; fetch_guidellm.sh prints it")
    parser.add_argument("--paced", metavar="TOKENS,FIRST_MS,GAP_MS", help="ask trivial_server in place of Interlace")
    parser.add_argument("--patterns", default="constant,poisson", help="of arrivals")
    parser.add_argument("--rate", type=float, default=2, help="requests/s")
    parser.add_argument("--requests", type=int, default=60, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--input", type=int, default=256, help="words of a prompt, about as many tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", default="bench-generator", help="folder for everything that is written")
    args = parser.parse_args()
    if (args.model is None) == (args.paced is None):
        parser.error("give a MODEL, or --paced")
    end_on_signal()
    out = pathlib.Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    server = (Paced(args.programs / "trivial_server", args.paced.split(","), args.threads, out) if args.paced
              else Interlace(args.programs / "interlace", args.model, [], args.threads, out))
    server.up()
    try:
        rows = measure(args, server, out)
    finally:
        server.end()
    lines = summarise(rows)
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(w) if c < 2 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths))))
    (out / "generator.json").write_text(json.dumps({"server": " ".join(server.command), "rate": args.rate, "rounds": rows}, indent=1))
    print(f"generator: wrote {out}/generator.json", file=sys.stderr)


if __name__ == "__main__":
    main()
