#!/usr/bin/env python3
"""Writes what tests/kernels/dequantise_test.cc reads: random blocks of every quantised type of GGUF that is built in, and
the values that the `gguf` package takes them for.

    python3 tests/golden/make_quant_reference.py > tests/golden/quants.json

{"Q4_0": {"blocks": hex, "values": hex of float32s, little-endian}, ...}. Needs gguf and numpy. Bits of scales are such that
values are finite.
"""

import json

import gguf
import numpy as np

# Where the F16 scales of a block lie.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}


def main():
    random = np.random.default_rng(1)
    out = {}
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (2 if elements == 256 else 6, size), dtype=np.uint8)
        for at in scales:
            values = random.uniform(-2, 2, len(blocks)).astype(np.float16)
            blocks[:, at:at + 2] = values.view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            blocks[:, 0] = [0, 1, 2, 120, 127, 200]
        values = gguf.quants.dequantize(blocks, kind).astype(np.float32).reshape(-1)
        out[name] = {"blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()}
    print(json.dumps(out, indent=0))


if __name__ == "__main__":
    main()
