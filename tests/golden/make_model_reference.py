#!/usr/bin/env python3
"""Writes what tests/model/golden_test.cc compares with: greedy continuations, top logits and perplexity of a Llama GGUF.

    python3 tests/golden/make_model_reference.py MODEL.gguf tests/golden/tokenizer/chats.json TEXT tests/golden/model

Run by hand when the chats or the model change; needs torch, transformers, accelerate, tokenizers, gguf and
numpy. The reference is
transformers' LlamaForCausalLM in float32 on the weights that the `gguf` package dequantises.

OUT/greedy.json      {"model": sha256, "steps": 96, "chats": [{
                        "prompt": [ids, generation prompt included],
                        "tokens": [96 ids: greedy, not stopped by the end token],
                        "margins": [96: largest logit less the second, 4 decimals],
                        "end": first index of the end token in tokens, or -1,
                        "top": (first 3 chats) [[id, logit] x 16 at the last prompt position]}]}
OUT/perplexity.json  {"window": 512, "tokens": [4096 ids: the start of TEXT],
                        "nll": [mean negative log-likelihood of each window's tokens 1 .. 511 given those before],
                        "mean": over all windows}
"""

import argparse
import hashlib
import json
import os

import gguf
import numpy as np
import tokenizers
import torch
import transformers

STEPS = 96
TOP = 16
TOP_CHATS = 3
WINDOW = 512
TEXT_TOKENS = 4096


def fields(reader, prefix):
    return {name[len(prefix):]: field.contents() for name, field in reader.fields.items() if name.startswith(prefix)}


def halves_from_pairs(rows, heads):
    """GGUF keeps rotary pairs at rows (2i, 2i+1) of a head; transformers at rows (i, i + head_dim/2)."""
    width = rows.shape[0] // heads
    order = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
    return rows.reshape(heads, width, -1)[:, order].reshape(rows.shape)


def check_conversion(model, reader):
    """Every weight and setting of the converted model against the file itself: the conversion is not taken on trust."""
    meta = fields(reader, "llama.")
    config = model.config
    heads, kv_heads = meta["attention.head_count"], meta["attention.head_count_kv"]
    rope = getattr(config, "rope_parameters", None) or {}
    base = rope.get("rope_theta") or config.rope_theta
    assert base == meta["rope.freq_base"], base
    assert rope.get("rope_type", "default") == "default", rope
    assert abs(config.rms_norm_eps - meta["attention.layer_norm_rms_epsilon"]) < 1e-12, config.rms_norm_eps
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, kv_heads)
    assert config.num_hidden_layers == meta["block_count"] and config.hidden_act == "silu"
    assert model.model.layers[0].self_attn.head_dim == meta["rope.dimension_count"]
    want = 1.0 / (base ** (np.arange(0, meta["rope.dimension_count"], 2) / meta["rope.dimension_count"]))
    np.testing.assert_allclose(model.model.rotary_emb.inv_freq.numpy(), want, rtol=1e-6)

    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    state = dict(model.state_dict())
    tied = not any(t.name == "output.weight" for t in reader.tensors)
    if tied:
        assert model.lm_head.weight is model.model.embed_tokens.weight
        state.pop("lm_head.weight")
    for tensor in reader.tensors:
        part = tensor.name.split(".")
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if part[0] == "blk":
            name = f"model.layers.{part[1]}.{names[part[2]]}.weight"
            if part[2] in ("attn_q", "attn_k"):
                rows = halves_from_pairs(rows, heads if part[2] == "attn_q" else kv_heads)
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight",
                    "output": "lm_head.weight"}[part[0]]
        np.testing.assert_array_equal(state.pop(name).numpy(), rows, err_msg=name)
    assert not state, f"weights that the file does not have: {sorted(state)}"


def load_tokenizer(reader):
    """The byte-level BPE of SmolLM2 (digits apart, then GPT-2's pattern), from the file's own vocabulary."""
    meta = fields(reader, "tokenizer.")
    assert meta["ggml.model"] == "gpt2" and meta["ggml.pre"] == "smollm", (meta["ggml.model"], meta["ggml.pre"])
    pieces, types = meta["ggml.tokens"], meta["ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["ggml.merges"]]
    core = tokenizers.Tokenizer(tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([piece for piece, kind in zip(pieces, types) if kind == gguf.TokenType.CONTROL])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.chat_template = meta["chat_template"]
    return tokenizer, meta["ggml.eos_token_id"]


@torch.inference_mode()
def continue_greedily(model, prompt, end, with_top):
    out = model(torch.tensor([prompt]), use_cache=True)
    logits = out.logits[0, -1]
    chat = {"prompt": prompt, "tokens": [], "margins": [], "end": -1}
    if with_top:
        top = torch.topk(logits, TOP)
        chat["top"] = [[i, round(v, 6)] for i, v in zip(top.indices.tolist(), top.values.tolist())]
    for step in range(STEPS):
        best = torch.topk(logits, 2)
        token = int(best.indices[0])
        chat["tokens"].append(token)
        chat["margins"].append(round(float(best.values[0] - best.values[1]), 4))
        if token == end and chat["end"] < 0:
            chat["end"] = step
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
        logits = out.logits[0, -1]
    return chat


@torch.inference_mode()
def window_losses(model, tokens):
    losses = []
    for begin in range(0, len(tokens), WINDOW):
        window = torch.tensor(tokens[begin:begin + WINDOW])
        scores = torch.log_softmax(model(window[None]).logits[0, :-1].double(), dim=-1)
        losses.append(float(-scores.gather(1, window[1:, None]).mean()))
    return losses


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF of architecture llama")
    parser.add_argument("chats", help='JSON: [{"messages": [{"role", "content"}]}]')
    parser.add_argument("text", help="plain text for the perplexity")
    parser.add_argument("out", help="folder to write to")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    reader = gguf.GGUFReader(args.model)
    folder, name = os.path.split(os.path.abspath(args.model))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    check_conversion(model, reader)
    tokenizer, end = load_tokenizer(reader)
    os.makedirs(args.out, exist_ok=True)

    with open(args.text, encoding="utf-8") as file:
        tokens = tokenizer.encode(file.read()[:TEXT_TOKENS * 8], add_special_tokens=False)[:TEXT_TOKENS]
    assert len(tokens) == TEXT_TOKENS, "the text is too short"
    losses = window_losses(model, tokens)
    result = {"window": WINDOW, "tokens": tokens, "nll": [round(loss, 6) for loss in losses],
              "mean": round(sum(losses) / len(losses), 6)}
    with open(os.path.join(args.out, "perplexity.json"), "w", encoding="utf-8") as file:
        file.write(compact(result) + "\n")
    print(f"perplexity {np.exp(result['mean']):.4f}")

    with open(args.chats, encoding="utf-8") as file:
        chats = json.load(file)
    lines = []
    for index, chat in enumerate(chats):
        text = tokenizer.apply_chat_template(chat["messages"], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        answer = continue_greedily(model, prompt, end, index < TOP_CHATS)
        lines.append(compact(answer))
        print(f"chat {index}: {len(prompt)} tokens in, smallest margin {min(answer['margins'])}, "
              f"{tokenizer.decode(answer['tokens'][:24])!r}", flush=True)
    with open(args.model, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with open(os.path.join(args.out, "greedy.json"), "w", encoding="utf-8") as file:
        file.write(f'{{"model":"{digest}","steps":{STEPS},"chats":[\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
