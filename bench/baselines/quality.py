#!/usr/bin/env python3
"""interlace and llama.cpp against float32 on the same weights, teacher forced. quality.sh calls it.

Float32 (transformers, on the dequantised file) continues each chat greedily; the engines are fed its tokens one by one
and their next-token distributions are compared with its own, token by token:

  KL        mean over tokens of KL(float32 || engine), in nats
  agree     share of tokens where the largest logit is the same
  first     median over chats of the first token where it is not (the number of tokens if there is none): up to there
            the engine left alone would have written the same
  same      chats without such a token
  ppl       perplexity on the start of a text, in windows of 1024 tokens
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

WINDOW = 1024
MORE_CHATS = [
    [{"role": "user", "content": "Explain to a child why the sky is blue."}],
    [{"role": "user", "content": "Give me three arguments for and three against working from home."}],
    [{"role": "user", "content": "Translate to Spanish: The train leaves at half past seven tomorrow morning."}],
    [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": "What does a compiler do?"}],
]


def progress(text):
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr,
          flush=True)


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


class Float32:
    name = "float32"

    def __init__(self, model, threads):
        import torch
        import transformers
        self.torch = torch
        torch.set_num_threads(threads)
        path = pathlib.Path(model).resolve()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()

    def continue_greedily(self, prompt, steps):
        """Tokens, and the logits that chose each: [steps, vocab]."""
        torch = self.torch
        with torch.inference_mode():
            out = self.model(torch.tensor([prompt]), use_cache=True)
            tokens, rows = [], []
            for _ in range(steps):
                rows.append(out.logits[0, -1].numpy().astype(np.float32))
                tokens.append(int(rows[-1].argmax()))
                out = self.model(torch.tensor([[tokens[-1]]]), past_key_values=out.past_key_values, use_cache=True)
        return tokens, np.stack(rows)

    def nll(self, tokens):
        torch = self.torch
        with torch.inference_mode():
            scores = torch.log_softmax(self.model(torch.tensor([tokens])).logits[0, :-1].double(), dim=-1)
            return (-scores.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]).tolist()


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, model, threads):
        import llama_cpp
        self.llama = llama_cpp.Llama(model_path=model, n_ctx=WINDOW, n_batch=512, n_threads=threads,
                                     n_threads_batch=threads, logits_all=True, verbose=False)

    def logits(self, tokens, begin):
        self.llama.reset()
        self.llama.eval(tokens[:begin])
        for token in tokens[begin:-1]:  # a token a step, as when it generates
            self.llama.eval([token])
        return np.array(self.llama.scores[begin - 1:len(tokens) - 1])

    def nll(self, tokens):
        self.llama.reset()
        self.llama.eval(tokens)
        scores = log_softmax(np.array(self.llama.scores[:len(tokens) - 1]))
        return (-scores[np.arange(len(tokens) - 1), tokens[1:]]).tolist()


class Interlace:
    def __init__(self, args, ops, folder):
        self.name, self.args, self.ops, self.folder = f"interlace ({ops})", args, ops, folder

    def run(self, sequences, *outputs):
        path = self.folder / "sequences.json"
        path.write_text(json.dumps(sequences))
        settings = [part for setting in self.args.set for part in ("--set", setting)]
        subprocess.run([self.args.score, self.args.model, "run", path, "--ops", self.ops, "--threads",
                        str(self.args.threads), *settings, *outputs], check=True)

    def all_logits(self, sequences, vocab):
        path = self.folder / "logits.f32"
        self.run(sequences, "--logits", path)
        return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, vocab)

    def nlls(self, windows):
        path = self.folder / "nll.json"
        self.run([{"tokens": w, "from": 1} for w in windows], "--nll", path)
        return json.loads(path.read_text())


def compare(want, got):
    """Of one chat: KL of each token, and whether the largest logit is the same."""
    p, q = log_softmax(want), log_softmax(got)
    return (np.exp(p) * (p - q)).sum(axis=-1), want.argmax(axis=-1) == got.argmax(axis=-1)


def summary(name, pairs, steps):
    kls = np.concatenate([kl for kl, _ in pairs])
    firsts = [int(np.argmin(same)) if not same.all() else steps for _, same in pairs]
    return {"engine": name, "kl": float(kls.mean()), "agree": float(np.concatenate([s for _, s in pairs]).mean()),
            "first_divergence_median": float(np.median(firsts)), "same_chats": sum(f == steps for f in firsts),
            "chats": len(pairs)}


def print_table(rows, steps):
    heading = ["engine", "KL, nats/token", "agree", f"first of {steps}", "same chats", "ppl"]
    table = [heading] + [[r["engine"], "{:.3g}".format(r["kl"]) if "kl" in r else "0",
                          "{:.2f} %".format(100 * r["agree"]) if "agree" in r else "100 %",
                          "{:g}".format(r["first_divergence_median"]) if "kl" in r else str(steps),
                          f"{r['same_chats']}/{r['chats']}" if "kl" in r else "",
                          "{:.4f}".format(r["perplexity"]) if "perplexity" in r else "-"] for r in rows]
    widths = [max(len(line[c]) for line in table) for c in range(len(heading))]
    for line in table:
        print("  ".join(cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--score", required=True, help="bench/baselines/score")
    parser.add_argument("--chats-file", required=True, help='JSON: [{"messages": [...]}]')
    parser.add_argument("--chats", type=int, default=24, help="how many")
    parser.add_argument("--steps", type=int, default=96, help="tokens of a chat")
    parser.add_argument("--text", help="plain text for the perplexity")
    parser.add_argument("--bytes", type=int, default=65536, help="of the text")
    parser.add_argument("--ops", action="append", help="our op tables (auto)")
    parser.add_argument("--set", action="append", default=[], help="a setting of ours")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", default="bench-quality", help="folder for quality.json")
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        folder = pathlib.Path(folder)
        chats = [c["messages"] for c in json.loads(pathlib.Path(args.chats_file).read_text())] + MORE_CHATS
        text = pathlib.Path(args.text).read_bytes()[:args.bytes].decode("utf-8", "ignore") if args.text else ""
        (folder / "in.json").write_text(json.dumps({"chats": chats[:args.chats], "text": text}))
        subprocess.run([args.score, args.model, "encode", folder / "in.json", folder / "ids.json"], check=True)
        ids = json.loads((folder / "ids.json").read_text())
        windows = [w for w in (ids["text"][i:i + WINDOW] for i in range(0, len(ids["text"]), WINDOW)) if len(w) == WINDOW]

        progress("float32: loading")
        reference = Float32(args.model, args.threads)
        wanted, sequences = [], []
        for number, prompt in enumerate(ids["chats"]):
            progress(f"float32: chat {number + 1} of {len(ids['chats'])}")
            tokens, rows = reference.continue_greedily(prompt, args.steps)
            np.save(folder / f"want{number}.npy", rows)
            wanted.append(folder / f"want{number}.npy")
            sequences.append({"tokens": prompt + tokens, "from": len(prompt)})
        vocab = np.load(wanted[0]).shape[1]

        rows = [{"engine": reference.name}]
        nlls = {reference.name: []}
        for number, window in enumerate(windows):
            progress(f"float32: window {number + 1} of {len(windows)}")
            nlls[reference.name] += reference.nll(window)
        del reference

        for ops in args.ops or ["auto"]:
            ours = Interlace(args, ops, folder)
            progress(f"{ours.name}: {len(sequences)} chats")
            logits = ours.all_logits(sequences, vocab)
            rows.append(summary(ours.name, [compare(np.load(path), logits[i * args.steps:(i + 1) * args.steps])
                                            for i, path in enumerate(wanted)], args.steps))
            if windows:
                progress(f"{ours.name}: {len(windows)} windows")
                nlls[ours.name] = [loss for window in ours.nlls(windows) for loss in window]

        theirs = LlamaCpp(args.model, args.threads)
        pairs = []
        for number, sequence in enumerate(sequences):
            progress(f"llama.cpp: chat {number + 1} of {len(sequences)}")
            pairs.append(compare(np.load(wanted[number]), theirs.logits(sequence["tokens"], sequence["from"])))
        rows.append(summary(theirs.name, pairs, args.steps))
        nlls[theirs.name] = []
        for number, window in enumerate(windows):
            progress(f"llama.cpp: window {number + 1} of {len(windows)}")
            nlls[theirs.name] += theirs.nll(window)
    progress("")
    for row in rows:
        if nlls.get(row["engine"]):
            row["nll"] = float(np.mean(nlls[row["engine"]]))
            row["perplexity"] = float(np.exp(row["nll"]))
    print_table(rows, args.steps)
    (out / "quality.json").write_text(json.dumps({"model": args.model, "steps": args.steps, "windows": len(windows),
                                                  "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
