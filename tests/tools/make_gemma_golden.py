#!/usr/bin/env python3
"""Writes tests/golden/gemma3-greedy.json: what llama.cpp says on three prompts, token by token.

    make_gemma_golden.py MODEL.gguf NOVEL.txt OUT.json       (needs llama-cpp-python and numpy)

Each prompt is continued greedily by llama.cpp (float16 cache, its own quantized arithmetic).
For every position the file keeps llama.cpp's first choice, the gap between its two highest
logits, and its nll of the token that follows.  The longest prompt has 1,500 tokens: past the
local layers' window of 512.
"""
import json
import sys

import llama_cpp
import numpy as np

N_NEW = 100
PROMPTS = [
    ('fact', 'The capital of France is Paris. The capital of Italy is Rome. The capital of Japan is', 0),
    ('list', 'Here is how to make a cup of tea, step by step:\n\n1. Boil the water.\n2.', 0),
    ('novel', None, 1500),
]


def greedy(llm, ids):
    """All logits of ids and of what llama.cpp adds to them."""
    llm.reset()
    llm.eval(ids)
    out = list(ids)
    while True:
        scores = np.array(llm.scores[:llm.n_tokens], dtype=np.float64)
        if len(out) == len(ids) + N_NEW:
            return out, scores
        t = int(scores[-1].argmax())
        out.append(t)
        llm.eval([t])


def entry(name, ids, n_prompt, scores):
    two = np.sort(np.partition(scores, -2, -1)[:, -2:], -1)
    high = scores.max(-1)
    norm = np.log(np.exp(scores - high[:, None]).sum(-1)) + high
    nll = norm[:-1] - scores[np.arange(len(ids) - 1), ids[1:]]
    return dict(name=name, n_prompt=n_prompt, tokens=ids, top1=[int(x) for x in scores.argmax(-1)],
                gap=[round(float(x), 4) for x in two[:, 1] - two[:, 0]], nll=[round(float(x), 4) for x in nll])


def main():
    model, novel, path = sys.argv[1:]
    llm = llama_cpp.Llama(model, n_ctx=2048, n_batch=512, logits_all=True, n_threads=2, n_threads_batch=2, verbose=False)
    out = []
    for name, text, n in PROMPTS:
        text = text if text is not None else open(novel, encoding='utf-8').read()[2000:14000]
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)
        ids = ids[:n] if n else ids
        full, scores = greedy(llm, ids)
        out.append(entry(name, full, len(ids), scores))
        print(name, len(ids), 'tokens:', llm.detokenize(full[len(ids):]).decode(errors='replace')[:200].replace('\n', '\\n'))
    doc = dict(model='gemma-3-270m-q4_k_m.gguf', note='made by tests/tools/make_gemma_golden.py, llama-cpp-python ' + llama_cpp.__version__
               + '; gap in nats; nll[i] = -ln p(token i+1 | tokens 0..i)', prompts=out)
    with open(path, 'w') as f:
        f.write(json.dumps(doc).replace('{"name"', '\n{"name"') + '\n')


if __name__ == '__main__':
    main()
