#!/usr/bin/env python3
"""Per-token likelihoods under attention sinks, the naive way: the reference of the tiny models.

    streaming_nll.py MODEL.gguf OUT.json        (needs numpy and gguf; run from the top of the tree)

Independent of the daemon on purpose: one token at a time, float64, weights as the file's
formats dequantize, keys kept unrotated and every one of them rotated again at each step to
its place in the cache, which is cut to the sinks and the last ones before the next token.
Local layers (gemma3) keep min(R, w - 1) tokens and no sinks.
"""
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

WINDOWS = [(4, 40), (0, 32), (1, 63), (8, 16)]


def tokens(n, n_vocab):
    """Scattered ids, a third of them repeats of what came a few tokens ago."""
    s, out = 12345, []
    while len(out) < n:
        s = (s * 6364136223846793005 + 1442695040888963407) % 2**64
        r = s >> 33
        out.append(out[-1 - r // 3 % 20] if r % 3 == 0 and len(out) > 20 else r // 3 % n_vocab)
    return out


def rms(x, w, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * w


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    def __init__(self, path):
        r = GGUFReader(path)
        self.arch = r.fields['general.architecture'].contents()
        get = lambda k, default=None: (r.fields[f'{self.arch}.{k}'].contents() if f'{self.arch}.{k}' in r.fields else default)
        self.w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64).reshape([int(n) for n in t.shape[::-1]])
                  for t in r.tensors}
        self.L, self.E, self.H = get('block_count'), get('embedding_length'), get('attention.head_count')
        self.G, self.D = get('attention.head_count_kv'), get('attention.key_length') or self.E // self.H
        self.eps, self.base = get('attention.layer_norm_rms_epsilon'), get('rope.freq_base')
        self.gemma, self.window = self.arch == 'gemma3', get('attention.sliding_window')
        self.head = self.w.get('output.weight', self.w['token_embd.weight'])

    def local(self, l):
        return self.gemma and l % 6 != 5

    def rotate(self, x, l, places):
        """x [n, heads, D] at places [n]: llama's file has pairs side by side, gemma's half a head apart."""
        base = 10000.0 if self.local(l) else self.base
        angle = np.outer(places, base ** (-np.arange(0, self.D, 2) / self.D))[:, None]
        c, s, out, h = np.cos(angle), np.sin(angle), np.empty_like(x), self.D // 2
        a, b = (slice(0, h), slice(h, None)) if self.gemma else (slice(0, None, 2), slice(1, None, 2))
        out[..., a], out[..., b] = x[..., a] * c - x[..., b] * s, x[..., b] * c + x[..., a] * s
        return out


class Session:
    def __init__(self, m, sinks, recent):
        self.m, self.S, self.R = m, sinks, recent
        self.cache = [([], []) for _ in range(m.L)]

    def attend(self, l, q, k, v):
        m = self.m
        K, V = self.cache[l]
        K.append(k)
        V.append(v)
        n = len(K)
        keys, values = m.rotate(np.array(K), l, np.arange(n)), np.array(V)
        q = m.rotate(q[None], l, [n - 1])[0]
        out = np.empty((m.H, m.D))
        for h in range(m.H):
            g = h // (m.H // m.G)
            a = keys[:, g] @ q[h] / np.sqrt(m.D)
            a = np.exp(a - a.max())
            out[h] = a / a.sum() @ values[:, g]
        sinks, recent = (0, min(self.R, m.window - 1)) if m.local(l) else (self.S, self.R)
        if n > sinks + recent:         # before the next token comes: sinks, and the last ones
            del K[sinks], V[sinks]
        return out.reshape(-1)

    def step(self, token):
        m, eps = self.m, self.m.eps
        x = m.w['token_embd.weight'][token] * (np.sqrt(m.E) if m.gemma else 1)
        for l in range(m.L):
            w = {n[len(f'blk.{l}.'):-len('.weight')]: t for n, t in m.w.items() if n.startswith(f'blk.{l}.')}
            h = rms(x, w['attn_norm'], eps)
            q, k, v = ((w[n] @ h).reshape(-1, m.D) for n in ('attn_q', 'attn_k', 'attn_v'))
            if m.gemma:
                q, k = rms(q, w['attn_q_norm'], eps), rms(k, w['attn_k_norm'], eps)
            h = w['attn_output'] @ self.attend(l, q, k, v)
            x = x + (rms(h, w['post_attention_norm'], eps) if m.gemma else h)
            h = rms(x, w['ffn_norm'], eps)
            h = w['ffn_down'] @ ((gelu if m.gemma else silu)(w['ffn_gate'] @ h) * (w['ffn_up'] @ h))
            x = x + (rms(h, w['post_ffw_norm'], eps) if m.gemma else h)
        return m.head @ rms(x, m.w['output_norm.weight'], eps)


def run(m, ids, sinks, recent):
    s, nll, top = Session(m, sinks, recent), [], []
    for i, t in enumerate(ids[:-1]):
        z = s.step(t)
        nll.append(float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[ids[i + 1]]))
        top.append(int(z.argmax()))
    return dict(sinks=sinks, recent=recent, ppl=float(np.exp(np.mean(nll))), nll=[round(x, 6) for x in nll], top1=top)


def main():
    m = Model(sys.argv[1])
    ids = tokens(301, len(m.w['token_embd.weight']))
    out = dict(model=sys.argv[1].split('/')[-1], note='made by tests/tools/streaming_nll.py; nll[i] = -ln p(token i+1 | tokens 0..i)',
               tokens=ids, runs=[run(m, ids, *w) for w in WINDOWS])
    with open(sys.argv[2], 'w') as f:
        f.write(json.dumps(out).replace('{"sinks"', '\n{"sinks"') + '\n')
    for r in out['runs']:
        print('%d+%d: ppl %.2f, %d different top tokens' % (r['sinks'], r['recent'], r['ppl'], len(set(r['top1']))))


if __name__ == '__main__':
    main()
