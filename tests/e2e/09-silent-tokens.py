"""Tokens without text, the first that a process generates among them: they are kept and counted like others."""
from harness import *


def quiet(folder):
    """The tiny model with control tokens in place of the bytes (ids from 3 on) that its words are not made
    of, and nothing that ends an answer."""
    path = endless(folder)
    with open(path, 'rb') as f:
        data = bytearray(f.read())
    key = b'tokenizer.ggml.token_type'
    at = data.index(key) + len(key) + 8            # behind the types of the value and of its elements
    for byte in range(256):
        if not chr(byte).isalpha() and byte != 0x20 or byte > 0x7f:
            data[at + 8 + 4 * (3 + byte):at + 12 + 4 * (3 + byte)] = (3).to_bytes(4, 'little')
    with open(path, 'wb') as f:
        f.write(data)
    return path


with Daemon(model=quiet) as d:
    silent = 0
    for seed in range(1, 7):
        name = f's{seed}'
        c = d.rpc()
        c.call('session.create', session=name, sinks=4, window=28, seed=seed, raw=True, temperature=2)
        c.call('session.append', session=name, tokens=[300, 301, 302], wait=True)
        before = c.call('session.info', session=name)['position']
        c.call('session.generate', session=name, max_tokens=3)
        d.idle(name)
        events = d.events(name)
        end = [e for e in events if e['kind'] == 'turn' and e['state'] == 'end'][-1]
        check_equal((end['reason'], end['generated_tokens']), ('length', 3), 'the end of an answer')
        check_equal(d.rpc().call('session.info', session=name)['position'], before + 3, 'position')
        first = [e for e in events if e['kind'] == 'text' and e['role'] == 'assistant'][0]
        silent += first['tokens'] > 1 or not first['text']
        d.restart(signal.SIGKILL)
    check(silent > 1, 'answers that begin with a token without text', silent)
