#!/usr/bin/env python3
"""Speed of vLLM on this CPU, on the weights of a GGUF file: prefill and decode through the offline LLM API.

    vllm_bench.py MODEL.gguf --threads 2 [--prefill 512,32x256] [--decode 1x256,8x256,32x256] [--rounds 1] [--json FILE]

Run with the Python of fetch_vllm.sh. vLLM reads safetensors: the file's weights are dequantised once, by transformers,
into a folder beside this environment (BF16, as vLLM computes). Tokens are random; the end of sequence is ignored.

prefill BxN   B prompts of N tokens, one token out of each: tokens/s over the whole call.
decode BxN    B sequences at context N: the time of 64 tokens out less the time of 1, so that prefill drops out.
--convert only makes that folder, with the file's tokenizer, and prints its path: what `vllm serve` is given (servers.py).
Each round prints one JSON line; --serve reads one line "round" from standard input before each, so that rounds can be
interleaved with those of others.
"""
import argparse
import json
import os
import pathlib
import random
import sys
import time

STEPS = 64


def shapes(text):
    return [tuple(int(n) for n in (part if "x" in part else f"1x{part}").split("x")) for part in text.split(",") if part]


def converted(gguf, home):
    """The folder of MODEL's weights as safetensors, made if it is not there."""
    folder = home / "weights" / pathlib.Path(gguf).stem
    if (folder / "whole").exists():
        return folder
    import torch
    import transformers
    print(f"vllm_bench: dequantising {gguf} into {folder}", file=sys.stderr)
    path = pathlib.Path(gguf).resolve()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain now
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(torch.bfloat16).save_pretrained(folder)
    (folder / "whole").touch()
    return folder


def with_tokenizer(gguf, folder):
    """The folder, with the tokenizer of MODEL in it: a server turns tokens into text."""
    if not (folder / "tokenizer.json").exists():
        import transformers
        path = pathlib.Path(gguf).resolve()
        transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=shapes, default=shapes("512,32x256"))
    parser.add_argument("--decode", type=shapes, default=shapes("1x256,8x256,32x256"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help="wait for a line of standard input before each round")
    parser.add_argument("--json", help="file for all rounds")
    parser.add_argument("--convert", action="store_true", help="make the folder of weights and print its path")
    args = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{args.threads - 1}")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    home = pathlib.Path(sys.prefix).parent
    folder = converted(args.model, home)
    if args.convert:
        print(with_tokenizer(args.model, folder))
        return
    out = os.dup(1)
    os.dup2(2, 1)  # vLLM and its workers print to standard output
    from vllm import LLM, SamplingParams
    longest = max([n for _, n in args.prefill] + [n + STEPS for _, n in args.decode]) + 8
    widest = max(b for b, _ in args.prefill + args.decode)
    llm = LLM(model=str(folder), dtype="bfloat16", max_model_len=longest, max_num_seqs=widest, skip_tokenizer_init=True,
              enable_prefix_caching=False)
    vocab = llm.llm_engine.model_config.get_vocab_size()
    draw = random.Random(1)

    def seconds(batch, length, tokens):
        prompts = [{"prompt_token_ids": [draw.randrange(1000, vocab - 1000) for _ in range(length)]} for _ in range(batch)]
        sampling = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        results = llm.generate(prompts, sampling, use_tqdm=False)
        took = time.perf_counter() - begin
        assert all(len(r.outputs[0].token_ids) == tokens for r in results)
        return took

    def measure():
        row = {}
        for batch, length in args.prefill:
            name = f"prefill {length}" if batch == 1 else f"prefill {batch}x{length}"
            row[name] = batch * length / seconds(batch, length, 1)
        for batch, length in args.decode:
            alone = seconds(batch, length, 1)
            row[f"decode {batch} at {length}"] = batch * (STEPS - 1) / (seconds(batch, length, STEPS) - alone)
        return row

    measure()  # compiles and warms up
    rounds = []
    done = 0
    os.write(out, b'{"ready": true}\n')
    while args.serve or done < args.rounds:
        if args.serve and not sys.stdin.readline():
            break
        rounds.append(measure())
        os.write(out, (json.dumps(rounds[-1]) + "\n").encode())
        done += 1
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"model": args.model, "threads": args.threads, "rounds": rounds}))


if __name__ == "__main__":
    main()
