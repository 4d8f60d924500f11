"""A model file cut at every tensor, or with flipped bits in its header: a clear error, never a crash."""
import os
import random
import struct
import subprocess
import tempfile

from harness import SANITIZE, SINKD, SLOW, TINY, check, check_equal, run_sinkd

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def layout(data):
    """(end of the header, offsets at which tensors' data begin) of a good file."""
    at = 24
    n_tensor, n_key = struct.unpack_from('<QQ', data, 8)
    align = 32

    def string():
        nonlocal at
        n, = struct.unpack_from('<Q', data, at)
        at += 8 + n
        return data[at - n:at]

    def value(kind):
        nonlocal at
        if kind == 8:
            return string()
        if kind == 9:
            inner, n = struct.unpack_from('<IQ', data, at)
            at += 12
            for _ in range(n):
                value(inner)
            return None
        at += SIZES[kind]
        return data[at - SIZES[kind]:at]
    for _ in range(n_key):
        key = string()
        kind, = struct.unpack_from('<I', data, at)
        at += 4
        v = value(kind)
        if key == b'general.alignment':
            align, = struct.unpack('<I', v)
    offsets = []
    for _ in range(n_tensor):
        string()
        n_dim, = struct.unpack_from('<I', data, at)
        at += 4 + 8 * n_dim + 4
        offsets.append(struct.unpack_from('<Q', data, at)[0])
        at += 8
    base = (at + align - 1) // align * align
    return at, sorted(base + o for o in offsets)


def daemon_refuses(path, folder, what):
    """sinkd --model ends by itself, with the reason in its log."""
    p = subprocess.run([SINKD, '--model', path, '--socket', os.path.join(folder, 's'), '--state',
                        os.path.join(folder, 'state')], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=60 * SLOW)
    check(p.returncode > 0, f'{what}: the daemon should refuse, not crash or go on', p.returncode, p.stdout[-600:])
    check(b'bad_model' in p.stdout or b'unsupported' in p.stdout, f'{what}: no named reason', p.stdout[-600:])


with open(TINY, 'rb') as f:
    good = f.read()
header, tensors = layout(good)
check_equal(run_sinkd('--gguf', TINY).code, 0, 'the good file')

rng = random.Random(3)
cuts = [0, 3, 4, 23, 24] + sorted(rng.sample(range(25, header), 20))
for begin, end in zip(tensors, tensors[1:] + [len(good)]):
    cuts += [begin, begin + (end - begin) // 2]
cuts.append(len(good) - 40)       # the last bytes may be padding
flips = sorted(rng.sample(range(8 * 24), 40) + rng.sample(range(8 * header), 250 if SANITIZE in ('', 'no') else 80))
refused = []
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'model.gguf')
    for cut_at in cuts:
        with open(path, 'wb') as f:
            f.write(good[:cut_at])
        r = run_sinkd('--gguf', path)
        check_equal(r.code, 1, f'cut at {cut_at}: exit status')
        check('bad_model' in r.err + r.text, f'cut at {cut_at}: no named reason', r.err[-400:], r.text[-400:])
    daemon_refuses(path, folder, 'cut at its end')

    for bit in flips:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with open(path, 'wb') as f:
            f.write(bad)
        r = run_sinkd('--gguf', path)
        check(r.code in (0, 1), f'bit {bit}: exit status', r.code, r.err[-400:])
        if r.code == 1:
            check(any(n in r.err + r.text for n in ('bad_model', 'unsupported')), f'bit {bit}: no named reason', r.err)
            refused.append(bit)
    check(len(refused) > 20, 'flips that were noticed', len(refused))
    for bit in rng.sample(refused, 6):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with open(path, 'wb') as f:
            f.write(bad)
        daemon_refuses(path, folder, f'bit {bit}')

    for name, content in (('empty', b''), ('text', b'Not a model.\n' * 100), ('zeros', bytes(4096))):
        with open(path, 'wb') as f:
            f.write(content)
        check_equal(run_sinkd('--gguf', path).code, 1, name)
check(run_sinkd('--gguf', '/nonexistent.gguf').code == 1, 'a file that is not there')
print(f'{len(cuts)} cuts, {len(flips)} flips, {len(refused)} of them noticed')
