#!/usr/bin/env python3
"""Writes what tests of prompts' scores and of embeddings compare with; transformers is the reference, in float32.

    python3 tests/golden/make_prompt_reference.py MODEL.gguf tests/golden

Run by hand when the model or a tiny checkpoint changes; needs what make_model_reference.py needs, and safetensors.

OUT/model/loglikelihood.json  {"items": [{"context": [ids], "continuation": [ids], "context_text", "continuation_text",
                                "loglikelihood": sum over the continuation, "greedy": whether each of its tokens is the
                                likeliest}]}: 400 items, two for each of 200 contexts of 24 tokens out of perplexity.json:
                                first what follows in the text, then what follows another context. Texts become these
                                very tokens again, by themselves and joined.
OUT/archs/NAME/prompt.json    {"logprobs": [39: of each token of logits.json behind the first], "mean": [width: of the last
                                hidden states of all its tokens]}
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch
import transformers
from make_model_reference import check_conversion, compact, load_tokenizer

CONTEXTS, CONTEXT, CONTINUATION, BATCH = 200, 24, 6, 40


@torch.inference_mode()
def score(model, items):
    """Loglikelihood and greediness of each (context, continuation); all have the same lengths."""
    results = []
    for at in range(0, len(items), BATCH):
        tokens = torch.tensor([context + continuation for context, continuation in items[at:at + BATCH]])
        hidden = model.model(tokens).last_hidden_state[:, CONTEXT - 1:-1]
        scores = torch.log_softmax(model.lm_head(hidden).double(), dim=-1)
        wanted = tokens[:, CONTEXT:]
        own = scores.gather(2, wanted[..., None])[..., 0].sum(dim=1)
        greedy = (scores.argmax(dim=-1) == wanted).all(dim=1)
        results += list(zip(own.tolist(), greedy.tolist()))
    return results


def pairs(tokens, tokenizer):
    """Contexts and what follows them, where words begin and texts become the same tokens again."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    found, at = [], 0
    while at + CONTEXT + CONTINUATION <= len(tokens) and len(found) < CONTEXTS:
        context, continuation = tokens[at:at + CONTEXT], tokens[at + CONTEXT:at + CONTEXT + CONTINUATION]
        text, rest = tokenizer.decode(context), tokenizer.decode(continuation)
        good = rest.startswith(" ") and not text[-1:].isspace() and not rest[-1:].isspace()
        if good and encode(text) == context and encode(text + rest) == context + continuation and encode(rest) == continuation:
            found.append((context, continuation, text, rest))
            at += 12
        at += 1
    assert len(found) == CONTEXTS, len(found)
    return found


def write_items(model, tokenizer, out):
    with open(os.path.join(out, "perplexity.json"), encoding="utf-8") as file:
        tokens = json.load(file)["tokens"]
    found, items = pairs(tokens, tokenizer), []
    for index, (context, _, text, _) in enumerate(found):
        for _, continuation, _, rest in (found[index], found[(index + 37) % CONTEXTS]):
            items.append({"context": context, "continuation": continuation, "context_text": text, "continuation_text": rest})
    for item, (likelihood, greedy) in zip(items, score(model, [(i["context"], i["continuation"]) for i in items])):
        item.update(loglikelihood=round(likelihood, 6), greedy=greedy)
    lines = [compact(item) for item in items]
    with open(os.path.join(out, "loglikelihood.json"), "w", encoding="utf-8") as file:
        file.write('{"items":[\n' + ",\n".join(lines) + "\n]}\n")


@torch.inference_mode()
def write_arch(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.join(folder, "hf"), dtype=torch.float32, attn_implementation="eager").eval()
    with open(os.path.join(folder, "logits.json"), encoding="utf-8") as file:
        golden = json.load(file)
    tokens = torch.tensor(golden["tokens"])
    logits = model(tokens[None]).logits[0].double()
    np.testing.assert_allclose(logits[golden["rows"]].numpy(), np.array(golden["logits"]), rtol=1e-4, atol=1e-4)
    logprobs = torch.log_softmax(logits[:-1], dim=-1).gather(1, tokens[1:, None])[:, 0]
    mean = model.model(tokens[None]).last_hidden_state[0].double().mean(dim=0)
    short = lambda values: [float(f"{value:.7g}") for value in values.tolist()]
    with open(os.path.join(folder, "prompt.json"), "w", encoding="utf-8") as file:
        file.write(compact({"logprobs": short(logprobs), "mean": short(mean)}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF of architecture llama")
    parser.add_argument("out", help="tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    archs = os.path.join(args.out, "archs")
    for name in sorted(os.listdir(archs)):
        write_arch(os.path.join(archs, name))
    reader = gguf.GGUFReader(args.model)
    folder, name = os.path.split(os.path.abspath(args.model))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    check_conversion(model, reader)
    write_items(model, load_tokenizer(reader)[0], os.path.join(args.out, "model"))


if __name__ == "__main__":
    main()
