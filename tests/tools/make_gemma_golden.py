#!/usr/bin/env python3
"""Writes tests/golden/gemma3-greedy.json: what llama.cpp says on three prompts, token by token.

    make_gemma_golden.py MODEL.gguf NOVEL.txt OUT.json       (needs llama-cpp-python, gguf, numpy)

Each prompt is continued greedily by llama.cpp, on a copy of the model whose weights are
dequantized to float32 (the same values, written to a temporary file): with quantized weights
llama.cpp rounds activations to 8 bits, and that alone moves its own first choice across
gaps of half a nat on this model.  The nll of the file as it is is kept beside, as "nll_q".

For every position: llama.cpp's first choice, the gap between its two highest logits, and its
nll of the token that follows.  The longest prompt has 1,500 tokens: past the local layers'
window of 512.
"""
import json
import os
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

N_NEW = 100
PROMPTS = [
    ('fact', 'The capital of France is Paris. The capital of Italy is Rome. The capital of Japan is', 0),
    ('list', 'Here is how to make a cup of tea, step by step:\n\n1. Boil the water.\n2.', 0),
    ('novel', None, 1500),
]


class Seen:
    """What is kept of each position's logits; the logits themselves are a megabyte each."""
    def __init__(self):
        self.top1, self.gap, self.of = [], [], []

    def take(self, rows, following):
        for z, t in zip(rows, following):
            z = z.astype(np.float64)
            two = np.partition(z, -2)[-2:]
            self.top1.append(int(z.argmax()))
            self.gap.append(round(float(abs(two[1] - two[0])), 4))
            if t is not None:
                self.of.append(round(float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[t]), 4))


def feed(llm, ids, seen, after=None):
    """Evaluates ids in chunks; after: the token that follows the last, None: none yet."""
    for i in range(0, len(ids), 128):
        part, n = ids[i:i + 128], llm.n_tokens
        llm.eval(part)
        seen.take(llm.scores[n:n + len(part)], (ids[i + 1:] + [after])[:len(part)])


def greedy(llm, ids):
    llm.reset()
    seen, out = Seen(), list(ids)
    feed(llm, ids, seen)
    while len(out) < len(ids) + N_NEW:
        t, z = seen.top1[-1], llm.scores[llm.n_tokens - 1].astype(np.float64)
        seen.of.append(round(float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[t]), 4))
        out.append(t)
        feed(llm, [t], seen)
    return out, seen


def dequantized(path, out):
    """A copy of a GGUF with all of its tensors in float32."""
    r = gguf.GGUFReader(path)
    w = gguf.GGUFWriter(out, r.fields['general.architecture'].contents())
    for f in r.fields.values():
        if f.name.startswith('GGUF.') or f.name in ('general.architecture', 'general.file_type'):
            continue
        sub = f.types[1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        w.add_key_value(f.name, f.contents(), f.types[0], sub)
    for t in r.tensors:
        w.add_tensor(t.name, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def load(path):
    return llama_cpp.Llama(path, n_ctx=1664, n_batch=128, logits_all=True, n_threads=2, n_threads_batch=2, verbose=False)


def main():
    model, novel, path = sys.argv[1:]
    out = []
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, 'f32.gguf')
        dequantized(model, copy)
        llm = load(copy)
    for name, text, n in PROMPTS:
        text = text if text is not None else open(novel, encoding='utf-8').read()[2000:14000]
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)
        ids = ids[:n] if n else ids
        full, s = greedy(llm, ids)
        out.append(dict(name=name, n_prompt=len(ids), tokens=full, top1=s.top1, gap=s.gap, nll=s.of))
        print(name, len(ids), 'tokens:', llm.detokenize(full[len(ids):]).decode(errors='replace')[:200].replace('\n', '\\n'), flush=True)
    llm.close()
    llm = load(model)
    for p in out:
        llm.reset()
        s = Seen()
        feed(llm, p['tokens'], s)
        p['nll_q'], p['top1_q'] = s.of, s.top1
    doc = dict(model='gemma-3-270m-q4_k_m.gguf', note='made by tests/tools/make_gemma_golden.py, llama-cpp-python ' + llama_cpp.__version__
               + ', weights dequantized to float32; gap in nats; nll[i] = -ln p(token i+1 | tokens 0..i); _q: the file as it is', prompts=out)
    with open(path, 'w') as f:
        f.write(json.dumps(doc).replace('{"name"', '\n{"name"') + '\n')


if __name__ == '__main__':
    main()
