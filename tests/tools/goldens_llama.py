#!/usr/bin/env python3
"""llama.cpp's word on a file: FILE.gguf VECTORS.json -> nll of all tokens in one dense run (JSON).

Run by make_goldens.py with a Python that has llama-cpp-python (it need not have torch).
The cache is F32 and flash attention off, so that only the weights' format rounds.
"""
import json
import sys

import numpy as np
from llama_cpp import Llama


def main():
    ids = json.load(open(sys.argv[2]))['tokens']
    m = Llama(sys.argv[1], n_ctx=512, n_batch=512, n_ubatch=512, logits_all=True, type_k=0, type_v=0,
              flash_attn=False, n_threads=1, n_threads_batch=1, verbose=len(sys.argv) > 3)
    m.eval(ids)
    z = np.array(m.scores[:len(ids) - 1], np.float64)
    z -= z.max(-1, keepdims=True)
    nll = np.log(np.exp(z).sum(-1)) - z[np.arange(len(ids) - 1), ids[1:]]
    print(json.dumps(nll.tolist()))


if __name__ == '__main__':
    main()
