#!/usr/bin/env python3
"""Writes what tests/model/gemma3_golden_test.cc compares with: logits, greedy continuations and the loss of a Gemma 3 GGUF.

    python3 tests/golden/make_gemma3_reference.py gemma-3-270m-q4_k_m.gguf LICENSE tests/golden/model/gemma3.json

Run by hand when the model changes; needs torch, transformers, accelerate, gguf and numpy. The reference is transformers'
Gemma3ForCausalLM in float32, each of whose weights is checked against what the `gguf` package dequantises.

{"prompts": [{"prompt": [ids], "tokens": [24 ids: greedy], "margins": [largest logit less the second],
              "top": [[id, logit] x 16 at the last prompt position]}],
 "text": [900 ids: the start of TEXT, longer than the window of 512], "nll": [of each of text[1:], 4 decimals]}
"""

import argparse
import json
import os

import gguf
import numpy as np
import torch
import transformers

STEPS, TOP, TEXT_TOKENS = 24, 16, 900
PROMPTS = ["The capital of France is", "Water boils at a temperature of",
           "def fibonacci(n):\n    if n < 2:\n        return n\n    return"]

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "post_attention_norm": "post_attention_layernorm",
         "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}


def build(path):
    """The model as its card describes it, filled from the file; nothing is left to a converter."""
    reader = gguf.GGUFReader(path)
    meta = {name[len("gemma3."):]: field.contents() for name, field in reader.fields.items()
            if name.startswith("gemma3.")}
    config = transformers.Gemma3TextConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].contents()), hidden_size=meta["embedding_length"],
        intermediate_size=meta["feed_forward_length"], num_hidden_layers=meta["block_count"],
        num_attention_heads=meta["attention.head_count"], num_key_value_heads=meta["attention.head_count_kv"],
        head_dim=meta["attention.key_length"], max_position_embeddings=meta["context_length"],
        rms_norm_eps=meta["attention.layer_norm_rms_epsilon"], sliding_window=meta["attention.sliding_window"],
        query_pre_attn_scalar=meta["attention.key_length"], tie_word_embeddings=True, attn_implementation="eager",
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": meta["rope.freq_base"]},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})
    assert [t == "full_attention" for t in config.layer_types] == [(i + 1) % 6 == 0 for i in range(18)]
    model = transformers.Gemma3ForCausalLM(config).float().eval()
    state = dict(model.state_dict())
    state.pop("lm_head.weight")  # tied
    for tensor in reader.tensors:
        part = tensor.name.split(".")
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if part[0] == "blk":
            name = f"model.layers.{part[1]}.{NAMES[part[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[part[0]]
        if "norm" in name:
            rows = rows - 1
        state.pop(name).copy_(torch.from_numpy(rows))
    assert not state, f"weights that the file does not have: {sorted(state)}"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


@torch.inference_mode()
def continue_greedily(model, prompt):
    out = model(torch.tensor([prompt]), use_cache=True)
    logits = out.logits[0, -1]
    top = torch.topk(logits, TOP)
    answer = {"prompt": prompt, "tokens": [], "margins": [],
              "top": [[i, round(v, 5)] for i, v in zip(top.indices.tolist(), top.values.tolist())]}
    for _ in range(STEPS):
        best = torch.topk(logits, 2)
        token = int(best.indices[0])
        answer["tokens"].append(token)
        answer["margins"].append(round(float(best.values[0] - best.values[1]), 4))
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
        logits = out.logits[0, -1]
    return answer


@torch.inference_mode()
def losses(model, tokens):
    logits = model(torch.tensor([tokens])).logits[0, :-1]
    scores = torch.log_softmax(logits.double(), dim=-1)
    return [round(-float(v), 4) for v in scores.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, name = os.path.split(os.path.abspath(args.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = build(args.model)
    result = {"prompts": []}
    for text in PROMPTS:
        prompt = [2] + [t for t in tokenizer.encode(text, add_special_tokens=False)]
        answer = continue_greedily(model, prompt)
        result["prompts"].append(answer)
        print(f"{text!r} -> {tokenizer.decode(answer['tokens'])!r}", flush=True)
    with open(args.text, encoding="utf-8") as file:
        tokens = [2] + tokenizer.encode(file.read()[:TEXT_TOKENS * 8], add_special_tokens=False)
    result["text"] = tokens[:TEXT_TOKENS]
    assert len(result["text"]) == TEXT_TOKENS
    result["nll"] = losses(model, result["text"])
    print(f"perplexity {np.exp(np.mean(result['nll'])):.3f}")
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
