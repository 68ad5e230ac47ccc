#!/usr/bin/env python3
"""Makes tests/golden/sampling/cases.json: what the logits processors of transformers leave of rows of logits.

Needs PyTorch and transformers. The steps run in the order of kernels/sample/sample.h. Bias is SequenceBias with single
tokens, bad words NoBadWords (which looks at all tokens; the cases hold them in the output alone, as vLLM does),
min_tokens SuppressTokens of the end tokens. transformers has neither presence nor frequency penalty: those two lines
are vLLM's formula (vllm/model_executor/layers/utils.py, apply_penalties).
"""
import json
import pathlib

import torch
from transformers.generation import logits_process as lp

OUT = pathlib.Path(__file__).resolve().parent / "sampling" / "cases.json"
VOCAB = 48


def one_case(g: torch.Generator, number: int) -> dict:
    def chance(share):
        return torch.rand((), generator=g).item() < share

    def uniform(low, high):
        return round(low + (high - low) * torch.rand((), generator=g).item(), 3)

    def token():
        return int(torch.randint(VOCAB, (), generator=g))

    logits = torch.round(torch.randn(VOCAB, generator=g) * uniform(0.5, 4), decimals=3).to(torch.float32)
    prompt = [token() for _ in range(1 + token() % 12)]
    output = [token() for _ in range(token() % 12)]
    case = {"logits": [round(float(x), 3) for x in logits], "prompt": prompt, "output": output}
    settings = {
        "temperature": uniform(0.3, 2), "top_k": 1 + token() % 30 if chance(0.5) else 0,
        "top_p": uniform(0.2, 0.98) if chance(0.5) else 1, "min_p": uniform(0.01, 0.4) if chance(0.4) else 0,
        "typical_p": uniform(0.2, 0.95) if chance(0.4) else 1,
        "repetition_penalty": uniform(0.7, 2) if chance(0.5) else 1,
        "presence_penalty": uniform(-2, 2) if chance(0.4) else 0,
        "frequency_penalty": uniform(-2, 2) if chance(0.4) else 0,
        "logit_bias": {str(t): uniform(-5, 5) for t in {token() for _ in range(4)}} if chance(0.4) else {},
        "bad_words": [], "min_tokens": 0, "end_tokens": []}
    if chance(0.5):
        settings["bad_words"] = [[token()], [token(), token()]]
        for length in (1, 2):  # words whose beginning the output ends with
            if len(output) >= length:
                settings["bad_words"].append(output[-length:] + [int(logits.argmax()) if length == 1 else token()])
    if chance(0.4):
        settings["min_tokens"], settings["end_tokens"] = token() % 16, [token(), int(logits.argmax())]
    case["settings"] = settings

    ids, scores = torch.tensor([prompt + output]), logits.unsqueeze(0).clone()
    if settings["logit_bias"]:
        bias = {(int(t),): b for t, b in settings["logit_bias"].items()}
        scores = lp.SequenceBiasLogitsProcessor(bias)(ids, scores)
    words = [w for w in settings["bad_words"] if len(w) - 1 <= len(output)]
    if words:
        words = [list(w) for w in {tuple(w) for w in words}]
        past = torch.tensor([output], dtype=torch.long) if output else torch.zeros((1, 0), dtype=torch.long)
        scores = lp.NoBadWordsLogitsProcessor(words, eos_token_id=None)(past, scores)
    if len(output) < settings["min_tokens"]:
        scores = lp.SuppressTokensLogitsProcessor(settings["end_tokens"], device="cpu")(ids, scores)
    if settings["repetition_penalty"] != 1:
        scores = lp.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"])(ids, scores)
    counts = torch.zeros(VOCAB)
    for t in output:
        counts[t] += 1
    scores = scores - settings["frequency_penalty"] * counts - settings["presence_penalty"] * (counts > 0)
    case["greedy"] = int(scores.argmax())
    scores = lp.TemperatureLogitsWarper(settings["temperature"])(ids, scores)
    if settings["min_p"] > 0:
        scores = lp.MinPLogitsWarper(settings["min_p"])(ids, scores)
    if settings["top_k"] > 0:
        scores = lp.TopKLogitsWarper(settings["top_k"])(ids, scores)
    if settings["top_p"] < 1:
        scores = lp.TopPLogitsWarper(settings["top_p"])(ids, scores)
    if settings["typical_p"] < 1:
        scores = lp.TypicalLogitsWarper(settings["typical_p"])(ids, scores)
    shares = torch.softmax(scores.to(torch.float64), dim=-1)[0]
    case["shares"] = {str(i): round(float(p), 8) for i, p in enumerate(shares) if p > 0}  # of what stays
    case["logprobs"] = [round(float(x), 6) for x in torch.log_softmax(logits.to(torch.float64), dim=-1)]
    return case


def main():
    generator = torch.Generator().manual_seed(7)
    OUT.parent.mkdir(exist_ok=True)
    cases = [one_case(generator, i) for i in range(100)]
    OUT.write_text("[" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "]\n")


if __name__ == "__main__":
    main()
