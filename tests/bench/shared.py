"""What the sections of tests/bench/run share: processes, models, peers, pairing, rows.

A figure is {median, min, max, n}.  A row puts ours beside each peer's, with the ratio to
the better peer, the floor (the best that bytes or operations allow on this machine, as the
probe measured it in the same run, or in each round) and the target; holds is true, false, or None where a
figure that the target needs was not measured.  A ratio is the rounds' median of ratios: the
machine is another one from minute to minute.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'sinkd')
SMALL = 'SmolLM2-135M-Instruct'
GEMMA = 'gemma-3-270m-q4_k_m.gguf'


class Missing(Exception):
    """What a section needs is not here; the row says so."""


def figure(values):
    values = [v for v in values if v is not None]
    if not values:
        return None
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values), 'n': len(values)}


def median(x):
    """Of rounds, a figure, or one number; None: there is none."""
    x = figure(x) if isinstance(x, list) else x
    return x['median'] if isinstance(x, dict) else x


def over(values, others):
    """The median of rounds' ratios, where both have as many; else of one median to the other."""
    if isinstance(values, list) and isinstance(others, list) and len(values) == len(others):
        return statistics.median(x / y for x, y in zip(values, others))
    return median(values) / median(others)


def spent():
    """(seconds that the machine's processors worked or were taken away, and those of our children that have ended)"""
    with open('/proc/stat') as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + irq + softirq + steal) / os.sysconf('SC_CLK_TCK'), r.ru_utime + r.ru_stime


def alone(run, patience):
    """What run() returns, once others took less than 4 % of the machine meanwhile; and what they took at last.  Waits and
    repeats within that many seconds."""
    cores, end = len(os.sched_getaffinity(0)), time.monotonic() + patience
    while True:
        while time.monotonic() < end:
            before = spent()
            time.sleep(0.5)
            if spent()[0] - before[0] < 0.06 * cores * 0.5:
                break
        before, begin = spent(), time.monotonic()
        answer = run()
        after, seconds = spent(), time.monotonic() - begin
        others = max(0.0, after[0] - before[0] - (after[1] - before[1])) / (cores * seconds)
        if others < max(0.04, 0.03 / seconds) or time.monotonic() > end:
            return answer, others


class Bench:
    def __init__(self, options):
        self.o = options
        self.build = os.path.abspath(options.build)
        self.rows, self.notes, self.probe = [], [], None
        self.lacks = False                       # something could not be measured
        self.others = 0.0                        # most that others took of the machine during a measurement
        self.rounds = 1 if options.quick else options.rounds
        self.peers = find_peers(options.peers)

    # ---- processes ----

    def program(self, name):
        path = os.path.join(self.build, name)
        if not os.access(path, os.X_OK):
            raise Missing(f'{name} is not built')
        return path

    def json_of(self, argv, limit=600):
        p = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=limit, text=True, errors='replace', env={**os.environ, 'GGML_NO_BACKTRACE': '1'})
        try:
            answer = json.loads(p.stdout)
        except ValueError:
            answer = {'error': (p.stderr or p.stdout).strip()[-200:] or f'exit status {p.returncode}'}
        if p.returncode or 'error' in answer:
            raise Missing(f'{os.path.basename(str(argv[0]))}: {answer.get("error", p.returncode)}')
        return answer

    def engine(self, model, rows, *more, threads=2, kv='f16', limit=600):
        """{what: [row, ...]} of tests/bench/engine."""
        window = '4+60' if self.o.quick else '4+2000'
        answer = self.json_of([self.program('tests/bench/engine'), '--rows', rows, '--kv', kv, '--threads', threads,
                               *([] if '--window' in more else ['--window', window]), *more, model], limit)
        out = {'load_seconds': answer['load_seconds'], 'described': answer['described']}
        for row in answer['rows']:
            out.setdefault(row['what'], []).append(row)
        return out

    def peer(self, name, model, tasks, kv='f16', threads=2):
        return self.json_of([self.peers[name]['python'], os.path.join(HERE, 'peer.py'), model, threads, kv, *tasks])

    def alone(self, run):
        answer, others = alone(run, 0 if self.o.quick else self.o.patience)
        self.others = max(self.others, others)
        return answer

    def pair(self, contenders, alone=True):
        """{name: function} take turns, each round in another order; {name: [answers]}.  Who fails is out, and noted."""
        answers, names = {name: [] for name in contenders}, list(contenders)
        for i in range(self.rounds):
            for name in names[i % len(names):] + names[:i % len(names)]:
                if name not in answers:
                    continue
                try:
                    answers[name].append(self.alone(contenders[name]) if alone else contenders[name]())
                except (Missing, subprocess.TimeoutExpired) as e:
                    self.notes.append(f'{name}: {e}')
                    del answers[name]
        return answers

    # ---- models ----

    def model(self, kind):
        """The file of a format; made once."""
        if self.o.model:
            return self.o.model
        if kind == 'Gemma Q4_K_M':
            return there(os.path.join(CACHE, GEMMA), 'tools/fetch-model gemma3')
        source = there(os.path.join(CACHE, f'{SMALL}.Q4_1.gguf'), 'tools/fetch-model small')
        if kind == 'Q4_1':
            return source
        folder = os.path.join(CACHE, 'bench')
        name = f'small-{kind}.gguf' if kind.endswith('_K') else f'{SMALL}.{kind}.gguf'
        path, part = os.path.join(folder, name), os.path.join(folder, name + '.part')
        if not os.path.exists(path):
            os.makedirs(folder, exist_ok=True)
            if kind.endswith('_K'):
                subprocess.run([self.program('tests/bench/make-model'), '--shape', 'small', '--type', kind, part], check=True)
            elif 'llama.cpp' not in self.peers:
                raise Missing(f'{name}: tests/bench/peers installs what makes it')
            else:
                self.json_of([self.peers['llama.cpp']['python'], os.path.join(HERE, 'peer.py'), '--quantize', source, part, kind])
            os.rename(part, path)
        return path

    # ---- rows ----

    def add(self, section, row, ours, peers=None, unit='tokens/s', floor=None, ratio=None, share=None, most=None, least=None, never=False, better=max, note=''):
        """floor: a figure, or one of each round.  ratio: at least so many times the better peer; share: at least of the floor's speed; most, least: ours is; never: in no round less.
        better: of two figures; where it is min, less is better, and ratio is how many times the better peer's ours is."""
        rounds, turns, floors = ours, peers or {}, floor
        peers = {k: figure(v) for k, v in turns.items() if figure(v)}
        ours = ours if isinstance(ours, dict) or ours is None else figure(ours)
        floor = median(floors)
        best = better(peers, key=lambda k: peers[k]['median']) if peers else None
        d = {'section': section, 'row': row, 'unit': unit, 'ours': ours, 'peers': peers, 'best_peer': best,
             'ratio': over(rounds, turns[best]) if ours and best else None,
             'floor': floor, 'of_floor': over(rounds, floors) if ours and floor else None, 'target': '', 'holds': None, 'note': note}
        wanted = [(ratio, f'{ratio}x the better peer', lambda: d['ratio'] and d['ratio'] >= ratio),
                  (share, f'{share:.0%} of the floor' if share else '', lambda: d['of_floor'] and d['of_floor'] >= share),
                  (most, f'at most {most}', lambda: ours and ours['median'] <= most),
                  (least, f'at least {least}' + ', in every round' * never, lambda: ours and ours['min' if never else 'median'] >= least)]
        wanted = [(text, test()) for value, text, test in wanted if value is not None]
        d['target'] = ', '.join(text for text, _ in wanted)
        if wanted:
            said = [x for _, x in wanted]
            d['holds'] = False if any(x is False for x in said) else None if any(x is None for x in said) else True
        self.rows.append(d)
        print_row(d)
        return d

    def missing(self, section, row, why):
        self.lacks = True
        self.add(section, row, None, note=f'not run: {why}')


def there(path, hint):
    if not os.path.exists(path):
        raise Missing(f'{path} is not there: {hint}')
    return path


def find_peers(folder):
    """{name: {python, how}} of those that tests/bench/peers has installed."""
    out = {}
    for name, at in (('llama.cpp', 'llama'), ('ik_llama.cpp', 'ik')):
        at = os.path.join(folder, at) if folder else ''
        if at and os.path.exists(os.path.join(at, 'how')):
            with open(os.path.join(at, 'how')) as f:
                out[name] = {'python': os.path.join(at, 'bin', 'python'), 'how': f.read().strip()}
    return out


# ---- the table ----

def number(x):
    return '-' if x is None else f'{x:.0f}' if x >= 100 else f'{x:.1f}' if x >= 10 else f'{x:.3g}'


def print_row(d, to=sys.stdout):
    ours = d['ours'] and f"{number(d['ours']['median'])} ({number(d['ours']['min'])}-{number(d['ours']['max'])})" or '-'
    peers = ', '.join(f"{k} {number(v['median'])}" for k, v in d['peers'].items()) or '-'
    said = {True: 'holds', False: 'DOES NOT HOLD', None: ''}[d['holds']]
    print(f"{d['section']:10} {d['row']:44} {ours:>22} {d['unit']:9} | {peers:44} | {number(d['ratio']):>5} | floor {number(d['floor']):>6}"
          f" | {d['target']}{': ' if said else ''}{said}{' [' + d['note'] + ']' if d['note'] else ''}", file=to, flush=True)


def best_of(peers, name):
    """A peer's median, the largest where it ran in several ways ('NAME HOW')."""
    medians = [x['median'] for p, x in peers.items() if p == name or p.startswith(name + ' ')]
    return number(max(medians)) if medians else ''


def markdown(rows, header):
    """The same table, for SPEED.md."""
    m = header['machine']
    out = [f"{m['cpu']}, family {m['family']}, model {m['model']}{', AVX-512 VNNI' if m['vnni'] else ''}{', AVX-VNNI' if m['avx_vnni'] else ''}, {m['cores']} cores, "
           f"{m['memory_bytes'] >> 30} GiB; Linux {m['kernel']}; {m['compiler']}; commit {m['commit']}; {header['rounds']} rounds, medians; "
           f"others took at most {header['others']:.0%} of the machine during a measurement.", '', *(f'* {name}: {how}' for name, how in m['peers'].items()), '',
           '| | ours (min - max) | ' + ' | '.join(m['peers']) + ' | ratio | floor | of it | target | holds |',
           '|---' * (7 + len(m['peers'])) + '|']
    for d in rows:
        o = d['ours']
        cells = [d['section'] + ': ' + d['row'], f"{number(o['median'])} {d['unit']} ({number(o['min'])} - {number(o['max'])})" if o else d['note'],
                 *(best_of(d['peers'], p) for p in m['peers']), *(number(d[k]) if d[k] else '' for k in ('ratio', 'floor')),
                 f"{d['of_floor']:.0%}" if d['of_floor'] else '', d['target'], {True: 'yes', False: '**no**', None: ''}[d['holds']]]
        out.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(out) + '\n'
