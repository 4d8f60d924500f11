"""The sections of tests/bench/run that need no daemon: the machine, decode, prefill, sessions.

Ours is tests/bench/engine, theirs is peer.py: both load the file, take the same number of
tokens and time what lies between.
"""
import csv
import os
import subprocess
import sys

from shared import SMALL, Missing

FORMATS = ('Q4_1', 'Q4_0', 'Q8_0', 'F16', 'Q4_K', 'Q6_K', 'Gemma Q4_K_M')
# Targets: times the better peer.
EMPTY = {'Q4_1': 1.8, 'Q4_0': 1.2, 'Q8_0': 1.2}
PREFILL = {'F16': 1.0}
# Bits of activations and the cache's type; halves and bfloats meet no activations of eight bits.
PREFILLS = ((15, 'f16', ''), (15, 'q8', ', cache of 8 bits'), (8, 'f16', ', activations of 8 bits'),
            (8, 'q8', ', activations and cache of 8 bits'))


def probe(b):
    """What memory and integer units give at best, by one thread and two."""
    size = ['64', '0.05'] if b.o.quick else ['512', '0.5']
    b.probe = b.alone(lambda: b.json_of([b.program('tests/bench/probe'), *size]))
    for n in ('1', '2'):
        b.add('probe', f'memory read, threads: {n}', [b.probe['read_bytes_per_second'][n] / 1e9], unit='GB/s')
        b.add('probe', f'int8 multiply-adds, threads: {n}', [(b.probe['int8_operations_per_second'][n] or 0) / 1e9], unit='Gop/s')


def probed(b):
    if not b.probe:
        probe(b)
    return max(b.probe['read_bytes_per_second'].values()), max(x or 0 for x in b.probe['int8_operations_per_second'].values())


def formats(b):
    return ('Q4_1',) if b.o.quick or b.o.model else FORMATS if not b.o.formats else tuple(b.o.formats.split(','))


def named(kind):
    return kind if kind.startswith('Gemma') else f'{"small" if kind.endswith("_K") else SMALL} {kind}'


def contenders(b, path, ours, tasks):
    """ours(): of our engine; each peer runs the same tasks."""
    return {'ours': ours, **{name: lambda name=name: b.peer(name, path, tasks) for name in b.peers}}


def of_peers(answers, task):
    return {name: [x['tasks'][task] for x in said] for name, said in answers.items() if name not in ('ours', 'probe')}


def ours_of(answers, what, i=0):
    return [x[what][i]['tokens_per_second'] for x in answers.get('ours', [])]


def probing(b):
    """The probe as one who takes turns: what memory gives in each round."""
    argv = [b.program('tests/bench/probe'), *(['64', '0.05'] if b.o.quick else ['512', '0.2'])]
    return {'probe': lambda: max(b.json_of(argv)['read_bytes_per_second'].values())}


def floor_of(answers, what, i=0):
    """Tokens a second of as many bytes as were read, at the rate of each round."""
    rows = [x[what][i] for x in answers.get('ours', [])]
    return [rate * row['sessions'] / row['bytes'] for rate, row in zip(answers.get('probe', []), rows)]


def each_format(b, section, measure, kinds=FORMATS):
    for kind in [k for k in formats(b) if k in kinds]:
        try:
            measure(kind, b.model(kind))
        except Missing as e:
            b.missing(section, kind, str(e))


def decode(b):
    """From an empty window on.  Memory's rate is probed in turns with what reads it."""
    n = 16 if b.o.quick else 128
    task = f'decode:0:{n}'

    def measure(kind, path):
        turns = contenders(b, path, lambda: b.engine(path, 'empty', '--steps', n), [task])
        a = b.pair({**probing(b), **turns})
        b.add('decode', f'{named(kind)}, empty window', ours_of(a, 'decode_empty'), of_peers(a, task),
              floor=floor_of(a, 'decode_empty'), ratio=EMPTY.get(kind, 1.0), share=0.85)
    each_format(b, 'decode', measure)


def full(b):
    """In a full window of 4+2000; both take the better peer, whichever type its cache has."""
    depth, n = (64, 16) if b.o.quick else (2004, 64)
    task = f'decode:{depth}:{n}'

    def measure(kind, path):
        turns = {**probing(b), 'ours': lambda: b.engine(path, 'full', '--steps', n, kv='f16'),
                 'ours q8': lambda: b.engine(path, 'full', '--steps', n, kv='q8')}
        for name in b.peers:
            for kv in ('f16', 'q8_0'):
                turns[f'{name} {kv}'] = lambda name=name, kv=kv: b.peer(name, path, [task], kv)
        a = b.pair(turns)
        peers = {k: [x['tasks'][task] for x in v] for k, v in a.items() if k != 'probe' and not k.startswith('ours')}
        for name, kv, ratio in (('ours', 'f16', 1.7), ('ours q8', '8-bit', 2.0)):
            mine = {'ours': a.get(name, []), 'probe': a.get('probe', [])}
            b.add('full', f'{named(kind)}, window full, {kv} cache', ours_of(mine, 'decode_full'), peers,
                  floor=floor_of(mine, 'decode_full'), ratio=ratio)
    each_format(b, 'full', measure, ('Q4_1', 'Q4_0', 'Q8_0'))


def prefill(b):
    """512 tokens, ours in chunks of 128 (what more rows write does not stay in the second cache), the peers' in those
    or all at once, with either type of cache: whatever is fastest.  Activations of fifteen bits, and of eight, which are
    the peers'.  Eight bits take one operation of the probe's, fifteen two."""
    _, rate = probed(b)
    n, chunk = (32, 16) if b.o.quick else (512, 128)
    tasks = [f'prefill:{n}:{size}' for size in (chunk, n)]

    def measure(kind, path):
        mine = [x for x in PREFILLS if kind not in PREFILL or x[0] == 15]
        turns = {f'ours{word}': lambda bits=bits, kv=kv: b.engine(path, 'prefill', '--prompt', n, '--chunk', chunk,
                                                                  '--activation-bits', bits, kv=kv) for bits, kv, word in mine}
        turns.update({f'{name} {kv}': lambda name=name, kv=kv: b.peer(name, path, tasks, kv) for name in b.peers
                      for kv in ('f16', 'q8_0')})
        a = b.pair(turns)
        peers = {f'{name}, {task.split(":")[2]}': [x['tasks'][task] for x in said]
                 for name, said in a.items() if not name.startswith('ours') for task in tasks}
        for bits, _, word in mine:
            rows = a.get(f'ours{word}', [])
            b.add('prefill', f'{named(kind)}, {n} tokens{word}', ours_of({'ours': rows}, 'prefill'), peers,
                  floor=n * rate / (1 if bits == 8 else 2) / rows[0]['prefill'][0]['operations'] if rate and rows else None,
                  ratio=PREFILL.get(kind, 1.5))
    each_format(b, 'prefill', measure)
    a = b.pair({'ours': lambda: b.engine(b.model('Q4_1'), 'prefill', '--prompt', n, '--chunk', 64)})
    b.add('prefill', f"{named('Q4_1')}, {n} tokens, in the daemon's chunks of 64", ours_of(a, 'prefill'))


def sessions(b):
    """Eight sessions at once against one, from empty windows on and in full ones."""
    n = 8 if b.o.quick else 64
    path = b.model('Q4_1')
    one, eight = f'decode:0:{n}', f'decode:0:{n}:8'
    turns = contenders(b, path, lambda: b.engine(path, 'sessions-empty', '--sessions', '1,8', '--steps', n), [one])
    turns.update({f'{name} 8': lambda name=name: b.peer(name, path, [eight]) for name in b.peers})
    turns['ours, 8 bits'] = lambda: b.engine(path, 'sessions-empty', '--sessions', '1,8', '--steps', n, '--activation-bits', 8)
    a = b.pair({**probing(b), **turns})
    peers_8 = {name: [x['tasks'][eight] for x in a.get(f'{name} 8', [])] for name in b.peers}
    peers_1 = {name: [x['tasks'][one] for x in a.get(name, [])] for name in b.peers}
    b.add('sessions', 'one, empty window', ours_of(a, 'decode_sessions_empty', 0), peers_1,
          floor=floor_of(a, 'decode_sessions_empty', 0))
    b.add('sessions', 'eight, empty windows', ours_of(a, 'decode_sessions_empty', 1), peers_8,
          floor=floor_of(a, 'decode_sessions_empty', 1))
    times(b, 'eight over one, empty windows', ours_of(a, 'decode_sessions_empty', 0), ours_of(a, 'decode_sessions_empty', 1), 4.0,
          {name: [y / x for x, y in zip(peers_1[name], peers_8[name])] for name in b.peers})
    fast = {'ours': a.get('ours, 8 bits', []), 'probe': a.get('probe', [])}
    b.add('sessions', 'eight, empty windows, activations of 8 bits', ours_of(fast, 'decode_sessions_empty', 1), peers_8,
          floor=floor_of(a, 'decode_sessions_empty', 1))
    times(b, 'eight over one, empty windows, activations of 8 bits', ours_of(fast, 'decode_sessions_empty', 0),
          ours_of(fast, 'decode_sessions_empty', 1), 4.0)
    for kv in ('f16', 'q8'):
        a = b.pair({**probing(b), 'ours': lambda: b.engine(path, 'sessions', '--sessions', '1,8', '--steps', n, kv=kv)})
        for i, word in enumerate(('one', 'eight')):
            b.add('sessions', f'{word}, full windows, {kv} cache', ours_of(a, 'decode_sessions', i),
                  floor=floor_of(a, 'decode_sessions', i))
        times(b, f'eight over one, full windows, {kv} cache', ours_of(a, 'decode_sessions', 0), ours_of(a, 'decode_sessions', 1), None)


def times(b, row, one, eight, least, peers=None, section='sessions', never=False):
    b.add(section, row, [y / x for x, y in zip(one, eight)], peers, unit='times', least=least, never=never)


def contention(b):
    """A process that never rests on each core; ours by two threads and by one.  First they share each core as they are, then
    as groups (sessions of their own), of which the system gives each as much: then two threads have less each than one.
    Ours goes on for some seconds, past its first looks at what workers bring; the peers' 160 tokens are enough to tell."""
    for groups, name in ((False, 'every core busy'), (True, 'every core busy, by other groups')):
        contend(b, groups, name)


def contend(b, groups, name):
    path = b.model('Q4_1')
    n = 8 if b.o.quick else 600
    task = f'decode:0:{min(n, 160)}'
    cores = sorted(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, '-c', f'import os\nos.sched_setaffinity(0, [{c}])\nwhile True: pass'],
                             start_new_session=groups) for c in cores]
    try:
        turns = {f'ours {t}': lambda t=t: b.engine(path, 'empty', '--steps', n, threads=t) for t in (1, 2)}
        turns.update({f'{peer} {t}': lambda peer=peer, t=t: b.peer(peer, path, [task], threads=t) for peer in b.peers for t in (1, 2)})
        a = b.pair(turns, alone=False)
    finally:
        for p in busy:
            p.kill()
            p.wait()
    peers = {t: {peer: [x['tasks'][task] for x in a.get(f'{peer} {t}', [])] for peer in b.peers} for t in (1, 2)}
    ours = {t: ours_of({'ours': a.get(f'ours {t}', [])}, 'decode_empty') for t in (1, 2)}
    for t in (1, 2):
        b.add('contention', f'{named("Q4_1")}, {name}, threads: {t}', ours[t], peers[t])
    times(b, f'two threads over one, {name}', ours[1], ours[2], 1.0,
          {peer: [y / x for x, y in zip(peers[1][peer], peers[2][peer])] for peer in b.peers}, 'contention', never=True)


# ---- flatness ----

def flatness(b):
    """A full window, and 100,000 tokens after it; 64 of each 1,000 are timed one by one, in turns with those of a session
    whose window has just become full: how their medians compare is not the machine's noise."""
    n, steps = (200, 2) if b.o.quick else (100000, 64)
    path = b.model('Q4_1')
    rows = b.alone(lambda: b.engine(path, 'stream', '--stream', n, '--steps', steps, limit=7200)['stream'])
    points = [(r['tokens'], 1 / r['p50_seconds'], 1 / r['just_full_p50_seconds']) for r in rows]
    if b.o.csv:
        with open(b.o.csv, 'w', newline='') as f:
            w = csv.writer(f, lineterminator='\n')
            w.writerow(['tokens_after_the_window_was_full', 'position', 'tokens_per_second', 'of_a_window_just_full_in_turns', 'ratio'])
            w.writerows([r['tokens'], r['position'], f'{y:.2f}', f'{full:.2f}', f'{y / full:.4f}'] for r, (_, y, full) in zip(rows, points))
        with open(os.path.splitext(b.o.csv)[0] + '.svg', 'w') as f:
            f.write(plot(points, f'{named("Q4_1")}, window 4+2000: tokens a second; grey: of a window just full, in turns'))
    at = [next(p for p in points if p[0] >= x) for x in (n // 100, n // 10, n)]
    for x, y, _ in at:
        b.add('flatness', f'at {x} tokens', [y])
    for x, y, full in at:
        b.add('flatness', f'at {x} tokens, over a window just full', [y / full], unit='times', least=0.97)


def plot(points, title):
    """An SVG of two lines from zero up."""
    wide, high, left, low = 720, 300, 60, 40
    most = max(max(p[1:]) for p in points) * 1.15
    last = points[-1][0]
    def line(which, colour):
        at = [(left + p[0] / last * (wide - left - 20), high - low - p[which] / most * (high - low - 30)) for p in points]
        return f'<path fill="none" stroke="{colour}" stroke-width="1.5" d="M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in at) + '"/>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">',
           f'<rect width="{wide}" height="{high}" fill="#fff"/><text x="{left}" y="18">{title}</text>']
    step = max(1, int(most / 5 / 10)) * 10
    for y in range(0, int(most) + 1, step):
        v = high - low - y / most * (high - low - 30)
        out.append(f'<path d="M{left} {v:.1f}H{wide - 20}" stroke="#ddd"/><text x="{left - 6}" y="{v + 4:.1f}" text-anchor="end">{y}</text>')
    for i in range(6):
        x = left + i / 5 * (wide - left - 20)
        out.append(f'<text x="{x:.1f}" y="{high - low + 18}" text-anchor="middle">{last * i // 5:,}</text>')
    out.append(f'<text x="{(wide + left) / 2}" y="{high - 6}" text-anchor="middle">tokens after the window was full</text>')
    out += [line(2, '#bbb'), line(1, '#06c'), '</svg>']
    return '\n'.join(out) + '\n'
