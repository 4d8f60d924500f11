"""Figures of a peer: llama.cpp or ik_llama.cpp through their Python packages.

    VENV/bin/python tests/bench/peer.py MODEL.gguf THREADS KV TASK...
    VENV/bin/python tests/bench/peer.py --quantize FROM.gguf TO.gguf FORMAT

TASK: prefill:TOKENS:CHUNK, so many at once, when everything has been used before; or
decode:DEPTH:TOKENS[:SEQUENCES], which fills the cache to DEPTH and decodes TOKENS tokens in each
of SEQUENCES sequences at once.  KV: f16 or q8_0.  Prints one JSON object: tokens per second of
each task, seconds to load, resident bytes after it.

Each runs with the options that make it fastest: flash attention; ik_llama.cpp repacks
weights at run time.  The second form is llama.cpp's own quantization, also of what is
quantized already.
"""
import ctypes
import json
import os
import sys
import time

F16, Q8_0 = 1, 8
BATCH = 512
FORMATS = {'F16': 1, 'Q4_0': 2, 'Q4_1': 3, 'Q8_0': 7, 'Q4_K': 14, 'Q6_K': 18}


def library():
    try:
        import ik_llama_cpp._ctypes_api as api
        return 'ik_llama.cpp', api
    except ImportError:
        import llama_cpp as api
        return 'llama.cpp', api


def quiet():
    """The libraries talk on stderr; the figures go to stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def fail(why):
    print(json.dumps({'error': why}))
    sys.exit(1)


def open_model(name, api, path):
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    if name == 'ik_llama.cpp':
        params.repack_tensors = True
        params.use_mmap = False
    model = api.llama_model_load_from_file(path.encode(), params)
    return model or fail('the model does not load')


def open_context(api, model, threads, kv, n_ctx, sequences):
    params = api.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = BATCH
    params.n_threads = params.n_threads_batch = threads
    params.n_seq_max = sequences
    params.type_k = params.type_v = Q8_0 if kv == 'q8_0' else F16
    if hasattr(params, 'flash_attn_type'):
        params.flash_attn_type = 1
        if hasattr(params, 'kv_unified'):
            params.kv_unified = False
    else:
        params.flash_attn = sequences == 1     # ik_llama.cpp aborts in it with several
    return api.llama_init_from_model(model, params) or fail('no context')


class Runner:
    def __init__(self, api, context):
        self.api, self.context = api, context
        self.batch = api.llama_batch_init(BATCH, 0, 1)

    def clear(self):
        if hasattr(self.api, 'llama_memory_clear'):
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        else:
            self.api.llama_kv_cache_clear(self.context)

    def step(self, rows):
        """rows: (token, position, sequence, wants logits)"""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, pos, seq, logits) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = pos
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = logits
        if self.api.llama_decode(self.context, batch) != 0:
            fail('llama_decode failed')
        if rows[-1][3]:
            logits = self.api.llama_get_logits_ith(self.context, len(rows) - 1)
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))[0]

    def fill(self, n, seq=0, chunk=BATCH):
        chunk = min(chunk, BATCH)
        for at in range(0, n, chunk):
            part = min(chunk, n - at)
            self.step([(300 + (at + i) * 7919 % 200, at + i, seq, at + i + 1 == n) for i in range(part)])

    def prefill(self, n, chunk):
        self.fill(n, chunk=chunk)
        self.clear()
        return n / timed(lambda: self.fill(n, chunk=chunk))

    def decode(self, depth, n, sequences=1):
        for seq in range(sequences):
            self.fill(depth, seq)

        def generate(begin, n):
            for i in range(begin, begin + n):
                self.step([(300 + i * 7919 % 200, depth + i, seq, True) for seq in range(sequences)])
        generate(0, 3)
        return sequences * n / timed(lambda: generate(3, n))


def timed(run):
    begin = time.monotonic()
    run()
    return time.monotonic() - begin


def resident():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith('VmRSS'))


def quantize(api, source, to, kind):
    params = api.llama_model_quantize_default_params()
    params.ftype = FORMATS[kind]
    params.allow_requantize = True
    params.nthread = 2
    if api.llama_model_quantize(source.encode(), to.encode(), ctypes.byref(params)) != 0:
        fail('llama_model_quantize failed')
    print(json.dumps({'file': to}))


def main():
    quiet()
    base = resident()
    name, api = library()
    api.llama_backend_init()
    if sys.argv[1] == '--quantize':
        return quantize(api, *sys.argv[2:5])
    path, threads, kv = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    tasks = [(t.split(':')[0], *map(int, t.split(':')[1:])) for t in sys.argv[4:]]
    sequences = max([t[3] for t in tasks if len(t) > 3] or [1])
    depth = max([t[1] + (t[2] if len(t) > 2 else 0) for t in tasks] or [0]) + 64
    begin = time.monotonic()
    model = open_model(name, api, path)
    context = open_context(api, model, threads, kv, (depth + 255) // 256 * 256 * sequences, sequences)
    figures = {'peer': name, 'threads': threads, 'kv': kv, 'load_seconds': time.monotonic() - begin, 'tasks': {}}
    run = Runner(api, context)
    run.fill(2)
    figures['resident_bytes'], figures['python_bytes'] = resident(), base
    for text, (kind, *numbers) in zip(sys.argv[4:], tasks):
        run.clear()
        figures['tasks'][text] = getattr(run, kind)(*numbers)
    print(json.dumps(figures))


main()
