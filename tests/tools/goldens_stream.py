"""The streaming rule by the reference's own way, on any model of transformers.

The reference (mit-han-lab/streaming-llm, arXiv 2309.17453) feeds one token at a time, keeps
the keys unrotated, rotates all of them again at every step by their place in the cache, and
cuts the cache to the sinks and the last R tokens after the step.  Here the model's attention
modules are replaced by that loop; embeddings, norms, feed-forward blocks and the output stay
transformers'.  Nothing of the daemon's rotate-once arithmetic is in here.

A local layer (a sliding window of w tokens) keeps the last min(R, w - 1) tokens and no sinks.
"""
import math

import torch


def rotate(x, places, inv, scale, pairs):
    """x [heads, n, dim] at places [n]: the first 2 * len(inv) dimensions, as halves or as pairs."""
    if inv is None:
        return x
    angle = places[:, None].float() * inv[None]
    c, s, n = angle.cos() * scale, angle.sin() * scale, 2 * len(inv)
    if pairs:
        a, b = x[..., 0:n:2], x[..., 1:n:2]
        turned = torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2)
    else:
        a, b = x[..., :n // 2], x[..., n // 2:n]
        turned = torch.cat([a * c - b * s, b * c + a * s], -1)
    return torch.cat([turned, x[..., n:]], -1)


def alibi_slopes(heads, most):
    """The ALiBi paper's: a geometric row for the power of two below, its refinement for the rest."""
    def row(n):
        return [2 ** (-most * (i + 1) / n) for i in range(n)]
    n = 2 ** int(math.log2(heads))
    return torch.tensor(row(n) + row(2 * n)[0::2][:heads - n])


class Stream:
    """One session: arch.qkv splits a layer's input, arch.rope says how it turns."""
    def __init__(self, model, arch, sinks, recent):
        self.model, self.arch, self.S, self.R = model, arch, sinks, recent
        self.layers = [m for _, m in model.named_modules() if type(m).__name__.endswith('Attention') and hasattr(m, 'layer_idx')]
        self.cache = [None] * len(self.layers)
        self.rope = [arch.rope(model, m, sinks + recent + 1) for m in self.layers]
        c = model.config
        self.slopes = alibi_slopes(c.n_heads, c.attn_config.alibi_bias_max) if arch.alibi else None

    def __enter__(self):
        for m in self.layers:
            m.forward = lambda hidden_states, *a, m=m, **k: (self.attend(m, hidden_states), None)
        return self

    def __exit__(self, *a):
        for m in self.layers:
            del m.forward

    def window(self, m):
        w = getattr(m, 'sliding_window', None) if self.arch.local else None
        return (self.S, self.R) if not w else (0, min(self.R, w - 1))

    def attend(self, m, h):
        l, a = m.layer_idx, self.arch
        q, k, v = (x.transpose(0, 1) for x in a.qkv(m, h[0]))                   # [heads, 1, dim]
        if self.cache[l] is not None:
            k, v = torch.cat([self.cache[l][0], k], 1), torch.cat([self.cache[l][1], v], 1)
        n, (S, R) = k.shape[1], self.window(m)
        keep = [i for i in range(n) if i < S or i >= n - R]
        self.cache[l] = k[:, keep], v[:, keep]                                  # cut after the step, unrotated
        places = torch.arange(n)
        inv, scale, pairs = self.rope[l]
        K, Q = rotate(k, places, inv, scale, pairs), rotate(q, places[-1:], inv, scale, pairs)
        group = Q.shape[0] // K.shape[0]
        K, V = K.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        z = (Q @ K.transpose(1, 2))[:, 0] * a.scale(m, q.shape[-1])             # [heads, n]
        cap = getattr(m, 'attn_logit_softcapping', None)
        if cap:
            z = torch.tanh(z / cap) * cap
        if self.slopes is not None:
            z = z - self.slopes[:, None] * (n - 1 - places)
        if hasattr(m, 'sinks'):                                                 # a learned logit a head, without a value
            z = torch.cat([z, m.sinks[:, None]], 1)
        p = z.softmax(-1)[:, :n]
        return a.out(m)((p[:, None] @ V)[:, 0].reshape(1, 1, -1))

    def step(self, token):
        return self.model(input_ids=torch.tensor([[token]]), use_cache=False).logits[0, -1]


def nll_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids[1:]), reduction='none')


def stream_nll(model, arch, ids, sinks, recent):
    with Stream(model, arch, sinks, recent) as s:
        return nll_of(torch.stack([s.step(t) for t in ids[:-1]]), ids)


def dense_nll(model, ids):
    return nll_of(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1], ids)
