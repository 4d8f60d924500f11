#!/usr/bin/env python3
"""Makes the goldens of the architectures: tiny models of transformers, as GGUF, with their numbers.

    make_goldens.py [--folder DIR] [--llama PYTHON] [NAME ...]      (default: all, into ../golden/arch)

NAME.gguf    random weights, F16 matrices (the model itself computes with those very values in F32)
NAME.json    tokens, and nll[i] = -ln p(token i+1 | tokens 0..i) in several windows: the run that covers
             all tokens is the model of transformers as it is; the others are the streaming rule by the
             loop of goldens_stream.py

The loop is held to the model itself in a window that covers everything.  With --llama, a Python that has
llama-cpp-python, llama.cpp loads the same file and agrees on the dense run: on F32 matrices within the
row's limit (its GELU is a table of 16 bits), and on the file as it is more loosely, since it rounds
activations to the matrices' format there.

Run by hand, with torch 2.15.0 (CPU), transformers 5.24.0, gguf 0.19.0, numpy 2.4.6, llama-cpp-python 0.3.36.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch  # noqa: E402
import transformers  # noqa: E402

from goldens_arch import ARCHS  # noqa: E402
from goldens_gguf import N_VOCAB, write  # noqa: E402
from goldens_stream import dense_nll, stream_nll  # noqa: E402

N_TOKEN = 300
COVERS = (4, N_TOKEN)
GAINS = dict(q_proj=1.3, k_proj=1.3, qkv=1.3, o_proj=2.0, out_proj=2.0, dense=2.0, lm_head=2.5, embed_out=2.5, query_key_value=1.3)
LOUD = ('c_fc', 'c_proj', 'up_proj', 'down_proj', 'dense_h_to_4h', 'dense_4h_to_h', 'fc_in', 'fc_out', 'lm_head', 'embed_out')


def randomise(model, arch, seed):
    """Nothing is zero or one, attention is uneven, logits vary; every value is exact in F16."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        x, last = torch.randn(p.shape, generator=g), name.split('.')[-2]
        if 'norm' in name or '.ln_' in name or name.split('.')[-1] == 'sinks':
            middle = 0.0 if name.endswith('bias') or arch.zero_norm else 1.0
            x = middle + 0.3 * x
        elif name.endswith('bias'):
            x = 0.3 * x
        elif last in ('embed_tokens', 'wte', 'embed_in', 'word_embeddings'):
            x = arch.embd * x
        else:
            gain = GAINS.get(last, 1.3 if 'qkv' in last.lower() else 1.0) * (arch.loud if last in LOUD else 1.0)
            x = x * gain / p.shape[-1] ** 0.5
        p.data.copy_(x.half().float())


def build(name, as_llama=False):
    arch, seed = ARCHS[name], zlib.crc32(name.encode())
    config = arch.as_llama() if as_llama else arch.config()
    config._attn_implementation = 'eager'
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation='eager', dtype=torch.float32).eval()
    randomise(model, arch, seed)
    arch.mend(model)
    g = torch.Generator().manual_seed(seed + 1)
    return model, arch, torch.randint(0, N_VOCAB, (N_TOKEN,), generator=g).tolist()


def run(nll, window):
    return dict(sinks=window[0], recent=window[1], ppl=float(nll.mean().exp()), nll=[round(x, 6) for x in nll.tolist()])


def ask_llama(python, gguf, vectors, nll):
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'goldens_llama.py')
    p = subprocess.run([python, here, gguf, vectors], capture_output=True, text=True)
    if p.returncode:
        return None, p.stderr.strip().splitlines()[-1:]
    return (torch.tensor(json.loads(p.stdout.strip().splitlines()[-1])) - nll).abs().max().item(), None


def make(name, folder, llama):
    model, arch, ids = build(name)
    path = os.path.join(folder, name)
    dense = dense_nll(model, ids)
    loop = (stream_nll(model, arch, ids, *COVERS) - dense).abs().max().item()
    runs = [run(dense, COVERS)] + [run(stream_nll(model, arch, ids, *w), w) for w in arch.runs]
    write(path + '.gguf', model, arch, name)
    out = dict(model=name + '.gguf', note='made by tests/tools/make_goldens.py; nll[i] = -ln p(token i+1 | tokens 0..i)',
               tokens=ids, runs=runs)
    with open(path + '.json', 'w') as f:
        f.write(json.dumps(out).replace('{"sinks"', '\n{"sinks"') + '\n')
    print('%-15s %4d KB  nll %5.2f +- %4.2f  loop %.1e' % (name, os.path.getsize(path + '.gguf') // 1024, dense.mean(), dense.std(), loop), end='')
    ok = loop < 1e-4
    if llama and arch.llama:
        theirs = dense_nll(build(name, True)[0], ids) if arch.as_llama else dense
        with tempfile.TemporaryDirectory() as t:
            write(t + '/full.gguf', model, arch, name, full=True)
            for file, limit in ((t + '/full.gguf', arch.limit), (path + '.gguf', 5e-2)):
                d, why = ask_llama(llama, file, path + '.json', theirs)
                print('  llama.cpp', '%.1e' % d if d is not None else why, end='')
                ok = ok and d is not None and d < limit
    print('' if ok else '   FAILED', flush=True)
    return ok


def main():
    a = argparse.ArgumentParser()
    a.add_argument('--folder', default=os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'golden', 'arch'))
    a.add_argument('--llama')
    a.add_argument('names', nargs='*')
    a = a.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    os.makedirs(a.folder, exist_ok=True)
    return 0 if all([make(n, a.folder, a.llama) for n in a.names or ARCHS]) else 1


if __name__ == '__main__':
    sys.exit(main())
