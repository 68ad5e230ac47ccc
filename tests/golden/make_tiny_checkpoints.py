#!/usr/bin/env python3
"""Writes what tests/model/archs_test.cc reads: for every architecture a tiny random checkpoint as transformers saves it,
the same as GGUF, and the logits that transformers computes.

    python3 tests/golden/make_tiny_checkpoints.py tests/golden/archs

Run by hand when an architecture is added; needs torch, transformers, safetensors, gguf and numpy.

OUT/NAME/hf/          config.json and model.safetensors (or an index and its parts): save_pretrained
OUT/NAME/model.gguf   by the `gguf` package, with the conventions of llama.cpp's convert_hf_to_gguf.py: q and k rows of
                      Llama, Mistral, Mixtral, SmolLM3 and Granite in adjacent pairs, Gemma's norms plus one, a layer's experts in one tensor,
                      Llama 3's scaling and LongRoPE as factors, norms and biases F32; Mistral's with a window is
                      written under its own name, since files called "llama" cannot hold one
OUT/NAME/logits.json  {"tokens": [ids], "rows": [positions], "logits": [[vocab] of each of rows]}, float32

Weights are small integers over a power of two: exact in F32, F16 and BF16, so that every form holds the same model.
"""

import argparse
import json
import os
import shutil

import gguf
import numpy as np
import torch
import transformers

VOCAB, WIDTH, TOKENS = 96, 32, 40


def common(**more):
    return {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 256,
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more}


def models():
    t = transformers
    return {
        "llama": t.LlamaForCausalLM(t.LlamaConfig(**common(rope_parameters={
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}))),
        "qwen2": t.Qwen2ForCausalLM(t.Qwen2Config(**common(
            head_dim=8, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters={
                "rope_type": "default", "rope_theta": 1000.0}))),
        "qwen3": t.Qwen3ForCausalLM(t.Qwen3Config(**common(rope_parameters={
            "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}))),
        "gemma3": t.Gemma3ForCausalLM(t.Gemma3TextConfig(**common(
            num_hidden_layers=7, num_key_value_heads=1, intermediate_size=32, tie_word_embeddings=True,
            sliding_window=8, query_pre_attn_scalar=16, rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}))),
        "mixtral": t.MixtralForCausalLM(t.MixtralConfig(**common(
            num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, sliding_window=None, rope_parameters={
                "rope_type": "default", "rope_theta": 1000.0}))),
        "qwen2_moe": t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(**common(
            head_dim=8, num_hidden_layers=3, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16,
            shared_expert_intermediate_size=32, norm_topk_prob=False, mlp_only_layers=[1], qkv_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0}))),
        "qwen3_moe": t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**common(
            num_hidden_layers=3, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=True,
            mlp_only_layers=[2], rope_parameters={"rope_type": "default", "rope_theta": 1000.0}))),
    }


def later_models():
    """Those that came after models(): a model's numbers depend on its place in the list."""
    t = transformers
    plain = {"rope_type": "default", "rope_theta": 1000.0}
    pairs = 3  # of the 6 elements that Phi-3 rotates of a head of 8
    granite = {"embedding_multiplier": 6.0, "residual_multiplier": 0.375, "attention_multiplier": 0.125,
               "logits_scaling": 2.0}
    gemma3_text = t.Gemma3TextConfig(**common(
        num_hidden_layers=6, num_key_value_heads=1, intermediate_size=32, tie_word_embeddings=True, sliding_window=8,
        query_pre_attn_scalar=16, rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}
    return {
        "mistral": t.MistralForCausalLM(t.MistralConfig(**common(sliding_window=12, rope_parameters=plain))),
        "gemma2": t.Gemma2ForCausalLM(t.Gemma2Config(**common(
            num_hidden_layers=4, intermediate_size=32, tie_word_embeddings=True, sliding_window=8,
            query_pre_attn_scalar=16, attn_logit_softcapping=2.0, final_logit_softcapping=4.0, rope_parameters=plain))),
        "gemma3_vision": t.Gemma3ForConditionalGeneration(t.Gemma3Config(
            text_config=gemma3_text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95,
            boi_token_index=94, eoi_token_index=93)),
        "phi3": t.Phi3ForCausalLM(t.Phi3Config(**common(
            head_dim=8, original_max_position_embeddings=32, sliding_window=24, rope_parameters={
                "rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 32,
                "short_factor": [1.0, 1.125, 1.25][:pairs], "long_factor": [1.5, 2.5, 6.0][:pairs]}))),
        "smollm3": t.SmolLM3ForCausalLM(t.SmolLM3Config(**common(
            num_hidden_layers=5, num_key_value_heads=1, intermediate_size=32, tie_word_embeddings=True,
            rope_parameters=plain))),
        "olmo2": t.Olmo2ForCausalLM(t.Olmo2Config(**common(head_dim=8, rope_parameters=plain))),
        "olmo3": t.Olmo3ForCausalLM(t.Olmo3Config(**common(
            head_dim=8, num_hidden_layers=5, intermediate_size=32, sliding_window=8, rope_parameters={
                "full_attention": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
                                   "original_max_position_embeddings": 64},
                "sliding_attention": plain}))),
        "granite": t.GraniteForCausalLM(t.GraniteConfig(**common(rope_parameters=plain, **granite))),
        "granite_moe": t.GraniteMoeForCausalLM(t.GraniteMoeConfig(**common(
            intermediate_size=16, num_local_experts=6, num_experts_per_tok=2, rope_parameters=plain, **granite))),
    }


def draw(model, seed):
    """Fills a model with integers / 256, times a power of two."""
    random = np.random.default_rng(seed)
    offset = 0 if model.config.model_type.startswith("gemma") else 1
    for name, p in model.named_parameters():
        values = random.integers(-96, 97, p.shape).astype(np.float32) / 256
        if "norm" in name:
            values = np.round(values * 64) / 64 + offset
        elif "embed_tokens" in name and offset == 1:
            values = values * 4
        elif name.endswith((".mlp.gate.weight", "block_sparse_moe.gate.weight", ".router.weight")):
            values = values * 2
        with torch.no_grad():
            p.copy_(torch.from_numpy(values))


def adjacent_from_halves(rows, heads):
    """transformers keeps rotary pairs at rows (i, i + head_dim/2) of a head; GGUF's Llama at rows (2i, 2i+1)."""
    head_dim = rows.shape[0] // heads
    return rows.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(config):
    r = config.rope_parameters
    dim = config.head_dim
    out = []
    for frequency in 1.0 / (r["rope_theta"] ** (np.arange(0, dim, 2) / dim)):
        length = 2 * np.pi / frequency
        low = r["original_max_position_embeddings"] / r["low_freq_factor"]
        high = r["original_max_position_embeddings"] / r["high_freq_factor"]
        if length < high:
            out.append(1.0)
        elif length > low:
            out.append(r["factor"])
        else:
            smooth = (r["original_max_position_embeddings"] / length - r["low_freq_factor"]) / (
                r["high_freq_factor"] - r["low_freq_factor"])
            out.append(1 / ((1 - smooth) / r["factor"] + smooth))
    return np.array(out, dtype=np.float32)


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp"}
NAMES.update({
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "block_sparse_moe.router": "ffn_gate_inp"})
NORM_AFTER_NAMES = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}
# q and k rows in adjacent pairs.
ADJACENT = ("llama", "mistral", "smollm3", "granite", "granitemoe")


def write_metadata(writer, arch, config):
    r = config.rope_parameters
    rope = r.get("full_attention", r)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "phi3":
        grown = config.max_position_embeddings / rope["original_max_position_embeddings"]
        writer.add_rope_scaling_attn_factors(
            np.sqrt(1 + np.log(grown) / np.log(rope["original_max_position_embeddings"])))
        writer.add_rope_dimension_count(2 * len(rope["long_factor"]))
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        if arch == "olmo2":
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if hasattr(config, "residual_multiplier"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if hasattr(config, "shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def write_gguf(path, name, model):
    arch = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_vision": "gemma3",
            "olmo3": "olmo2", "granite_moe": "granitemoe"}.get(name, name)
    config = model.config.get_text_config()
    writer = gguf.GGUFWriter(path, arch)
    write_metadata(writer, arch, config)

    def add(ours, tensor):
        values = tensor.detach().float().numpy()
        if arch.startswith("gemma") and ours.endswith("norm.weight"):
            values = values + 1
        if arch in ADJACENT and (".attn_q." in ours or ".attn_k." in ours):
            heads = config.num_attention_heads if ".attn_q." in ours else config.num_key_value_heads
            values = adjacent_from_halves(values, heads)
        if ours.endswith("ffn_gate_inp_shexp.weight"):
            values = values[0]
        matrix = values.ndim > 1 and "ffn_gate_inp" not in ours
        writer.add_tensor(ours, values.astype(np.float16 if matrix else np.float32))

    norms_after = arch.startswith(("gemma", "olmo"))
    names = {**NAMES, **NORM_AFTER_NAMES} if norms_after else NAMES
    if "long_factor" in config.rope_parameters:
        for kind in ("long", "short"):
            factors = np.array(config.rope_parameters[f"{kind}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    if getattr(config, "rope_parameters", {}).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    for theirs, tensor in model.state_dict().items():
        if ".vision_tower." in theirs or ".multi_modal_projector." in theirs:
            continue
        theirs = theirs.replace("model.language_model.", "model.")
        if theirs == "lm_head.weight":
            if not config.tie_word_embeddings:
                add("output.weight", tensor)
            continue
        part = theirs.removeprefix("model.").split(".")
        if part[0] != "layers":
            add({"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part[0]], tensor)
            continue
        prefix, rest = f"blk.{part[1]}.", ".".join(part[2:])
        if rest.endswith(".experts.gate_up_proj"):  # [experts, 2 * feed_forward, width]
            half = tensor.shape[1] // 2
            add(prefix + "ffn_gate_exps.weight", tensor[:, :half])
            add(prefix + "ffn_up_exps.weight", tensor[:, half:])
        elif rest.endswith(".experts.down_proj"):
            add(prefix + "ffn_down_exps.weight", tensor)
        else:
            stem, kind = rest.rsplit(".", 1)
            add(f"{prefix}{names[stem]}.{kind}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.inference_mode()
def logits_of(model, tokens):
    return model(torch.tensor([tokens])).logits[0].float().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("names", nargs="*", help="of the models to write; none: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed, (name, model) in enumerate({**models(), **later_models()}.items()):
        if args.names and name not in args.names:
            continue
        model = model.float().eval()
        model.set_attn_implementation("eager")
        draw(model, seed)
        folder = os.path.join(args.out, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        tokens = np.random.default_rng(100 + seed).integers(0, VOCAB, TOKENS).tolist()
        logits = logits_of(model, tokens)
        rows = list(range(0, TOKENS, 6)) + [TOKENS - 1]
        with open(os.path.join(folder, "logits.json"), "w", encoding="utf-8") as file:
            lines = ",\n".join(json.dumps([float(f"{v:.7g}") for v in logits[row]], separators=(",", ":"))
                               for row in rows)
            file.write(f'{{"tokens":{json.dumps(tokens)},"rows":{rows},"logits":[\n{lines}\n]}}\n')
        write_gguf(os.path.join(folder, "model.gguf"), name, model)
        hf = os.path.join(folder, "hf")
        model.to(torch.bfloat16).save_pretrained(hf, max_shard_size="20KB" if name == "llama" else "1GB")
        for extra in ("generation_config.json",):
            if os.path.exists(os.path.join(hf, extra)):
                os.remove(os.path.join(hf, extra))
        again = type(model).from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
        np.testing.assert_array_equal(logits_of(again, tokens), logits)
        print(f"{name}: logits up to {np.abs(logits).max():.3f}, "
              f"{sum(e.stat().st_size for e in os.scandir(hf)) // 1024} KiB, "
              f"{os.path.getsize(os.path.join(folder, 'model.gguf')) // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
