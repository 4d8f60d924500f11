"""sink score against the reference implementation, on the small model: the same ids, every nll within 2e-3."""
import json
import os

from harness import SRCDIR, Daemon, check, check_equal, small_model

with open(os.path.join(SRCDIR, 'tests/golden/smollm2-northanger.json')) as f:
    golden = json.load(f)
with open(os.path.join(SRCDIR, 'tests/golden/northanger.txt'), 'rb') as f:
    text = f.read()


def score(d, run, *options):
    r = d.sink('score', '--per-token', '--sinks', run['sinks'], '--window', run['recent'], *options, input=text, timeout=300)
    r = json.loads(r.text)
    check_equal(r['ids'], golden['tokens'], 'token ids')
    check_equal(len(r['per_token']), len(run['nll']), 'scored tokens')
    return r


with Daemon(model=small_model()) as d:
    for run in golden['runs']:
        what = f'{run["sinks"]}+{run["recent"]}'
        exact = score(d, run, '--exact')
        far = max(abs(a - b) for a, b in zip(exact['per_token'], run['nll']))
        quick = score(d, run)
        print(f'{what}: furthest {far:.2g}, ppl {exact["ppl"]:.4f} (reference {run["ppl"]:.4f}), quantized {quick["ppl"]:.4f}; '
              f'{exact["tokens_per_second"]:.0f} and {quick["tokens_per_second"]:.0f} tokens/s')
        check(far < 2e-3, f'{what}: nll', far)
        check(abs(quick['ppl'] / run['ppl'] - 1) < 0.01, f'{what}: quantized ppl', quick['ppl'])
    run = golden['runs'][0]
    quick = score(d, run)
    check_equal(score(d, run, '--chunk', 1)['per_token'], quick['per_token'], 'chunk 1 and 64, bitwise')
    print('4 bits, chunks of 1 and 64: the same bits')
with Daemon(model=small_model(), threads=1) as d:
    check_equal(score(d, run)['per_token'], quick['per_token'], '1 and 2 threads, bitwise')
