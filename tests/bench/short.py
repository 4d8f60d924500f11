#!/usr/bin/env python3
"""tests/bench/run still runs, on a tiny model and without peers: every row is there, and the
JSON is what readers of it expect.  No timing is looked at."""
import json
import os
import subprocess
import sys
import tempfile

SRCDIR, BUILDDIR = os.environ['SRCDIR'], os.environ['BUILDDIR']
RUN = [sys.executable, os.path.join(SRCDIR, 'tests/bench/run'), '--build', BUILDDIR, '--quick',
       '--model', os.path.join(SRCDIR, 'tests/data/tiny-llama.gguf')]
KEYS = {'date': str, 'quick': bool, 'rounds': int, 'machine': dict, 'seconds': float, 'probe': dict, 'others': float, 'rows': list, 'notes': list}
ROW = ['best_peer', 'floor', 'holds', 'note', 'of_floor', 'ours', 'peers', 'ratio', 'row', 'section', 'target', 'unit']
MACHINE = ['avx2', 'avx512', 'avx_vnni', 'commit', 'compiler', 'cores', 'cpu', 'family', 'governor', 'kernel', 'load_average', 'memory_bytes',
           'model', 'peers', 'vnni']
ROWS = {'probe': 4, 'decode': 1, 'full': 2, 'prefill': 5, 'sessions': 11, 'flatness': 6}


def check(good, what):
    print('ok    ' if good else 'FAILED', what, flush=True)
    if not good:
        sys.exit(1)


def run(out, *more, env=None):
    p = subprocess.run([*RUN, '--json', os.path.join(out, 'b.json'), *more], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(p.stdout)
    with open(os.path.join(out, 'b.json')) as f:
        return p.returncode, json.load(f), p.stdout


if os.environ.get('SANITIZE', 'no') != 'no':
    print('skip: it measures nothing under a sanitizer')
    sys.exit(77)
with tempfile.TemporaryDirectory() as out:
    rc, d, text = run(out, '--only', ','.join(ROWS), '--peers', out)
    check(rc == 0, f'exit status {rc}')
    check(sorted(d) == sorted(KEYS) and all(isinstance(d[k], t) for k, t in KEYS.items()), 'the keys and their types')
    check(sorted(d['machine']) == MACHINE and d['machine']['peers'] == {}, "the machine's keys")
    check({s: sum(r['section'] == s for r in d['rows']) for s in ROWS} == ROWS and len(d['rows']) == sum(ROWS.values()), 'rows of each section')
    for r in d['rows']:
        f = r['ours']
        check(sorted(r) == ROW and f and f['n'] == 1 and f['min'] == f['median'] == f['max'] and (f['median'] > 0 or 'int8' in r['row']),
              f"{r['section']}: {r['row']}")
        check(r['row'] in text and r['peers'] == {} and r['ratio'] is None, 'printed, and beside no peer')
        # Without peers nothing that is held against them can hold.
        check('peer' not in r['target'] or r['holds'] is not True, 'no verdict without a peer')
    check(all(r['floor'] > 0 and r['of_floor'] > 0 for r in d['rows'] if r['section'] in ('decode', 'full')), 'floors')

    # A test of the test: what cannot be measured is a row that says so, and the exit status.
    rc, d, _ = run(out, '--only', 'decode', '--peers', out, '--build', out)
    check(rc == 1 and d['rows'][-1]['ours'] is None and 'not built' in d['rows'][-1]['note'], 'a bench that is not built')
