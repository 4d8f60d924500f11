#!/usr/bin/env python3
"""tests/gpu/run on the simulated module: every step that can run passes, the summary is
whole, and no row that needs a card says anything else."""
import json
import os
import subprocess
import sys
import tempfile

SRCDIR, BUILDDIR = os.environ['SRCDIR'], os.environ['BUILDDIR']
if os.environ.get('SANITIZE', 'no') != 'no':
    print('skip: these programs run under the sanitizers by themselves (tests/cusim)')
    sys.exit(77)
PASSES = {
    'operations by rows against double precision', 'products, every format against double precision',
    'caches and attention against double precision', 'golden vectors of the tiny models', 'golden vectors of every architecture',
    'decode is batch-invariant bitwise; a rebuilt session within tolerance',
    'the bench of tiny Q8_0 runs', 'the bench of tiny Q4_K runs',
}
NEEDS = {
    'what the card can do', 'a decode step is one graph launch',
    'compute-sanitizer memcheck', 'compute-sanitizer racecheck', 'compute-sanitizer synccheck', 'compute-sanitizer initcheck',
    '8B Q8_0 decode, one session, 4+2000: 70 % of memory bandwidth', '8B Q4_K decode, one session, 4+2000: 60 % of memory bandwidth',
    '1B decode against max(bytes, graph nodes)', '8B prefill: 50 % of the bf16 peak', '64 sessions: 20 times one',
    'a token costs the same at 1,000 and at 1,000,000', "ahead of llama.cpp's CUDA backend in the same run",
}
NOT_RUN = {'sixteen tokens of the small model'}
KEYS = {'simulated': bool, 'quick': bool, 'date': str, 'machine': dict, 'module': str, 'seconds': float, 'count': dict, 'rows': list, 'figures': dict}
ROW = {'row': str, 'group': str, 'status': str, 'detail': str, 'seconds': float, 'log': str}
FIGURES = ['prefill', 'decode_empty', 'decode_at_1000', 'decode_at_1000000', 'decode_full', 'decode_sessions', 'decode_sessions']


def check(good, what):
    print('ok    ' if good else 'FAILED', what, flush=True)
    if not good:
        sys.exit(1)


def shape(d, keys, where):
    check(set(d) == set(keys) and all(isinstance(d[k], t) for k, t in keys.items()), f'the keys and their types: {where}')


with tempfile.TemporaryDirectory() as out:
    p = subprocess.run([sys.executable, os.path.join(SRCDIR, 'tests/gpu/run'), '--simulate', '--quick', '--build', BUILDDIR, '--out', out],
                       text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(p.stdout)
    check(p.returncode == 0, f'exit status {p.returncode}')
    with open(os.path.join(out, 'summary.json')) as f:
        d = json.load(f)
    shape(d, KEYS, 'summary.json')
    for row in d['rows']:
        row['seconds'] = float(row['seconds'])
        shape(row, ROW, row.get('row'))
        check(not row['log'] or os.path.getsize(os.path.join(out, row['log'])) > 0, f"{row['row']}: its log")
    for status, rows in (('pass', PASSES), ('needs a GPU', NEEDS), ('not run', NOT_RUN)):
        said = {x['row'] for x in d['rows'] if x['status'] == status}
        check(said == rows, f'{status}: {sorted(said ^ rows) or "as it must be"}')
        check(d['count'][status] == len(rows), f'{status}: counted')
    check(d['simulated'] and d['module'] == 'sinkd-cusim.so', 'it says that it is simulated')
    for model in ('tiny Q8_0', 'tiny Q4_K'):
        m = d['figures'][model]
        check(m['backend'] == 'cuda' and 'simulated' in m['described'], f"{model}: {m['described']}")
        check([x['what'] for x in m['rows']] == FIGURES, f'{model}: its rows')
        check(all(x['seconds'] > 0 and x['tokens_per_second'] > 0 and x['bytes'] > 0 and x['floor_seconds'] is None for x in m['rows']),
              f'{model}: figures, and no floor without a card')
        check([x['position'] for x in m['rows'] if 'at_1000' in x['what']] == [1000, 1000000], f'{model}: positions')
    with open(os.path.join(out, 'summary.txt')) as f:
        check(f.read().startswith('SIMULATED'), 'summary.txt begins with it')

    # A test of the test: a module that is none fails every step, and the exit status says so.
    os.symlink('/dev/null', os.path.join(out, 'sinkd-cusim.so'))
    os.symlink(os.path.join(BUILDDIR, 'tests'), os.path.join(out, 'tests'))
    p = subprocess.run([sys.executable, os.path.join(SRCDIR, 'tests/gpu/run'), '--simulate', '--quick', '--build', out, '--out', out],
                       text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with open(os.path.join(out, 'summary.json')) as f:
        d = json.load(f)
    check(p.returncode == 1 and d['count']['pass'] == 0 and d['count']['fail'] == len(PASSES), 'without a module every step fails')
    # Without --simulate, where no card is, nothing passes and nothing fails.
    if not os.path.exists('/dev/nvidiactl') and os.path.exists(os.path.join(BUILDDIR, 'tests/gpu/probe')):
        p = subprocess.run([sys.executable, os.path.join(SRCDIR, 'tests/gpu/run'), '--quick', '--build', BUILDDIR, '--out', out],
                           text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with open(os.path.join(out, 'summary.json')) as f:
            d = json.load(f)
        check(p.returncode == 77 and d['count']['needs a GPU'] == len(d['rows']), f'no card: exit status {p.returncode}')
