#!/usr/bin/env python3
"""Writes what tests/model/quantised_folder_test.cc reads: a tiny random Llama in each of the ways that folders are quantised,
and its matrices as Python takes them for.

    python3 tests/golden/make_quantised_folders.py tests/golden/quantised

Run by hand; needs torch, transformers, safetensors, compressed_tensors and vllm (whose packers of GPTQ and AWQ are used).

OUT/NAME/config.json, model.safetensors      the folder
OUT/NAME/plain/config.json, model.safetensors  the same model, every matrix F32
"""

import argparse
import json
import os
import shutil

import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file
from vllm.model_executor.layers.quantization.utils.quant_utils import awq_pack, gptq_pack, pack_cols

GROUP = 32


def model():
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=96,
        num_hidden_layers=2, max_position_embeddings=128, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0})
    return transformers.LlamaForCausalLM(config).float().eval()


def four_bits(weight, symmetric, order):
    """Codes [in, out], zeros and F16 scales [groups, out], the group of each input, and what they stand for [out, in]."""
    w = weight.t()
    inputs, outputs = w.shape
    groups = torch.arange(inputs) // GROUP
    if order:
        groups = groups[torch.randperm(inputs)]
    count = inputs // GROUP
    codes = torch.empty(inputs, outputs, dtype=torch.int32)
    zeros, scales = torch.empty(count, outputs, dtype=torch.int32), torch.empty(count, outputs, dtype=torch.float16)
    for g in range(count):
        part = w[groups == g]
        low, high = part.min(0).values.clamp(max=0), part.max(0).values.clamp(min=0)
        if symmetric:
            scales[g] = (part.abs().max(0).values / 7).half()
            zeros[g] = 8
        else:
            scales[g] = ((high - low) / 15).half()
            zeros[g] = (-low / scales[g].float()).round().clamp(1, 15).int()
        codes[groups == g] = (part / scales[g].float() + zeros[g]).round().clamp(0, 15).int()
    plain = scales.float()[groups] * (codes - zeros[groups]).float()
    return codes, zeros, scales, groups.int(), plain.t().contiguous()


def gptq(name, weight, symmetric=True, order=False):
    codes, zeros, scales, groups, plain = four_bits(weight, symmetric, order)
    inputs, outputs = codes.shape
    return {f"{name}.qweight": gptq_pack(codes, 4, inputs, outputs),
            f"{name}.qzeros": pack_cols(zeros - 1, 4, *zeros.shape), f"{name}.scales": scales,
            f"{name}.g_idx": groups}, plain


def awq(name, weight):
    codes, zeros, scales, _, plain = four_bits(weight, False, False)
    return {f"{name}.qweight": awq_pack(codes, 4, *codes.shape), f"{name}.qzeros": awq_pack(zeros, 4, *zeros.shape),
            f"{name}.scales": scales}, plain


def packed(name, weight):
    codes, _, scales, _, plain = four_bits(weight, True, False)
    scales = scales.to(torch.bfloat16)
    plain = (scales.float()[torch.arange(weight.shape[1]) // GROUP] * (codes - 8).float()).t().contiguous()
    return {f"{name}.weight_packed": pack_to_int32((codes - 8).t().contiguous().to(torch.int8), 4),
            f"{name}.weight_scale": scales.t().contiguous(), f"{name}.weight_shape": torch.tensor(weight.shape)}, plain


def fp8(name, weight, block=None, rows=False):
    most = torch.finfo(torch.float8_e4m3fn).max
    out, inputs = weight.shape
    if block:
        a, b = -(-out // block[0]), -(-inputs // block[1])
        scales = torch.empty(a, b)
        for i in range(a):
            for j in range(b):
                scales[i, j] = weight[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]].abs().max() / most
        every = scales.repeat_interleave(block[0], 0)[:out].repeat_interleave(block[1], 1)[:, :inputs]
    else:
        scales = (weight.abs().max(1, keepdim=True).values if rows else weight.abs().max()) / most
        scales = scales.reshape(-1, 1) if rows else scales.reshape(())
        every = scales.expand(out, inputs)
    codes = (weight / every).to(torch.float8_e4m3fn)
    kind = "weight_scale_inv" if block else "weight_scale"
    tensors = {f"{name}.weight": codes, f"{name}.{kind}": scales.contiguous()}
    if not block and not rows:
        tensors[f"{name}.input_scale"] = torch.tensor(0.5)
    return tensors, codes.float() * every


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq"}
FLOATS = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {
    "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}}}}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
    "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                                       "group_size": GROUP}}}}
WAYS = {
    "gptq": (gptq, {}, {**GPTQ, "desc_act": False, "sym": True}),
    "gptq_zeros": (gptq, {"symmetric": False}, {**GPTQ, "desc_act": False, "sym": False}),
    "gptq_order": (gptq, {"symmetric": False, "order": True}, {**GPTQ, "desc_act": True, "sym": False}),
    "awq": (awq, {}, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "packed": (packed, {}, PACKED),
    "fp8_blocks": (fp8, {"block": [24, 40]}, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                              "weight_block_size": [24, 40]}),
    "fp8_tensor": (fp8, {}, {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8_rows": (fp8, {"rows": True}, FLOATS),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = model()
    whole.save_pretrained("/tmp/tiny_llama_config")
    with open("/tmp/tiny_llama_config/config.json", encoding="utf-8") as file:
        config = json.load(file)
    for way, (quantise, options, settings) in WAYS.items():
        torch.manual_seed(7)
        tensors, plain = {}, {}
        for name, tensor in whole.state_dict().items():
            if ".layers." in name and tensor.dim() == 2:
                kept, value = quantise(name.removesuffix(".weight"), tensor, **options)
                tensors.update(kept)
                plain[name] = value
            else:
                tensors[name] = plain[name] = tensor
        folder = os.path.join(args.out, way)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "plain"))
        for where, what, more in ((folder, tensors, {"quantization_config": settings}),
                                  (os.path.join(folder, "plain"), plain, {})):
            save_file({k: v.detach().contiguous() for k, v in what.items()}, os.path.join(where, "model.safetensors"))
            with open(os.path.join(where, "config.json"), "w", encoding="utf-8") as file:
                json.dump({**config, **more}, file, indent=2)
        print(way, sum(e.stat().st_size for e in os.scandir(folder) if e.is_file()))


if __name__ == "__main__":
    main()
