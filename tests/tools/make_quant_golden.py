#!/usr/bin/env python3
"""Writes tests/golden/quants.txt: a few random blocks of every format and their values, by gguf-py.

  make_quant_golden.py > tests/golden/quants.txt

A line: format, the blocks' bytes in hex, the values' bits (float32, little endian) in hex. Needs numpy and gguf.
"""
import numpy as np
from gguf import GGMLQuantizationType, GGML_QUANT_SIZES
from gguf.quants import dequantize

FORMATS = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K MXFP4".split()
rng = np.random.default_rng(20)
for name in FORMATS:
    t = GGMLQuantizationType[name]
    n_value, n_byte = GGML_QUANT_SIZES[t]
    done = 0
    while done < 3:
        raw = rng.integers(0, 256, (max(1, 64 // n_value) if n_value < 64 else 1, n_byte), dtype=np.uint8)
        if name == "MXFP4":     # scales that a half holds
            raw[:, 0] = 104 + raw[:, 0] % 40
        with np.errstate(all="ignore"):
            values = dequantize(raw, t).astype("<f4").reshape(-1)
        if np.isfinite(values).all():
            print(name, raw.tobytes().hex(), values.tobytes().hex())
            done += 1
