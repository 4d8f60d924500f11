"""Writes GGUF files with nothing but the standard library.

    g = Gguf()
    g.key('general.architecture', 'str', 'llama')
    g.tensor('output_norm.weight', [64], 'F32', values)      # ne: contiguous dimension first
    g.write('file.gguf')

tensor() takes floats and quantizes them; raw() takes bytes as they are.  bytes() and
the numbers in `at` (where each key, tensor entry and datum begins) are for tests that
damage a file on purpose.  Source: the GGUF specification of ggml (docs/gguf.md).
"""
import math
import struct

VALUES = dict(u8=(0, 'B'), i8=(1, 'b'), u16=(2, 'H'), i16=(3, 'h'), u32=(4, 'I'), i32=(5, 'i'), f32=(6, 'f'),
              bool=(7, '?'), str=(8, None), list=(9, None), u64=(10, 'Q'), i64=(11, 'q'), f64=(12, 'd'))


def string(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack('<Q', len(b)) + b


def value(kind, v):
    if kind == 'str':
        return string(v)
    return struct.pack('<' + VALUES[kind][1], v)


# ---- block formats: a list of floats -> bytes ----

def nearest(x):
    return math.floor(x + 0.5)


def block_q8_0(b):
    d = max(abs(x) for x in b) / 127
    q = [nearest(x / d) if d else 0 for x in b]
    return struct.pack('<e32b', d, *q)


def nibbles(q):
    return bytes(q[i] | q[i + 16] << 4 for i in range(16))


def block_q4_0(b):
    m = max(b, key=abs)
    d = m / -8
    return struct.pack('<e', d) + nibbles([min(15, nearest(x / d + 8)) if d else 8 for x in b])


def block_q4_1(b):
    lo, hi = min(b), max(b)
    d = (hi - lo) / 15
    return struct.pack('<ee', d, lo) + nibbles([min(15, nearest((x - lo) / d)) if d else 0 for x in b])


def high_bits(q):
    return struct.pack('<I', sum((v >> 4 & 1) << i for i, v in enumerate(q))) + nibbles([v & 15 for v in q])


def block_q5_0(b):
    m = max(b, key=abs)
    d = m / -16
    return struct.pack('<e', d) + high_bits([min(31, nearest(x / d + 16)) if d else 16 for x in b])


def block_q5_1(b):
    lo, hi = min(b), max(b)
    d = (hi - lo) / 31
    return struct.pack('<ee', d, lo) + high_bits([min(31, nearest((x - lo) / d)) if d else 0 for x in b])


def bf16(x):
    u = struct.unpack('<I', struct.pack('<f', x))[0]
    return struct.pack('<H', (u + 0x7fff + (u >> 16 & 1)) >> 16)


# name -> (GGML's number, values in a block, quantizer)
FORMATS = dict(F32=(0, 1, lambda b: struct.pack('<f', b[0])), F16=(1, 1, lambda b: struct.pack('<e', b[0])),
               Q4_0=(2, 32, block_q4_0), Q4_1=(3, 32, block_q4_1), Q5_0=(6, 32, block_q5_0),
               Q5_1=(7, 32, block_q5_1), Q8_0=(8, 32, block_q8_0), BF16=(30, 1, lambda b: bf16(b[0])))


def quantize(fmt, values):
    _, n, f = FORMATS[fmt]
    return b''.join(f(values[i:i + n]) for i in range(0, len(values), n))


class Gguf:
    def __init__(self, version=3, alignment=32):
        self.version, self.alignment = version, alignment
        self.keys, self.tensors, self.at = [], [], {}

    def key(self, name, kind, v):
        """kind: a name of VALUES, or 'list:KIND'."""
        if kind.startswith('list:'):
            kind = kind[5:]
            body = struct.pack('<IQ', VALUES[kind][0], len(v)) + b''.join(value(kind, x) for x in v)
            self.keys.append((name, 9, body))
        else:
            self.keys.append((name, VALUES[kind][0], value(kind, v)))

    def tensor(self, name, ne, fmt, values):
        self.raw(name, ne, FORMATS[fmt][0], quantize(fmt, values))

    def raw(self, name, ne, number, data):
        self.tensors.append((name, ne, number, data))

    def bytes(self):
        out = bytearray(b'GGUF' + struct.pack('<IQQ', self.version, len(self.tensors), len(self.keys)))
        pad = lambda n: -n % self.alignment
        for name, kind, body in self.keys:
            self.at['key', name] = len(out)
            out += string(name) + struct.pack('<I', kind) + body
        offset = 0
        for name, ne, number, data in self.tensors:
            self.at['tensor', name] = len(out)
            out += string(name) + struct.pack('<I', len(ne)) + struct.pack('<%dQ' % len(ne), *ne)
            out += struct.pack('<IQ', number, offset)
            offset += len(data) + pad(len(data))
        self.at['end'] = len(out)
        out += bytes(pad(len(out)))
        for name, ne, number, data in self.tensors:
            self.at['data', name] = len(out)
            out += data + bytes(pad(len(data)))
        return bytes(out)

    def write(self, path):
        with open(path, 'wb') as f:
            f.write(self.bytes())
