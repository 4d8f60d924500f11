"""Every token's nll is bitwise the same for chunks of 1, 7, 64 and 256, 1 and 2 threads, and whoever else computes."""
import os

from harness import SRCDIR, Daemon, book, check, check_equal

text = book(3000).decode()
for model in ('tiny-llama.gguf', 'tiny-gemma3.gguf'):
    want = {}
    for threads in (1, 2):
        with Daemon(model=os.path.join(SRCDIR, 'tests/data', model), threads=threads) as d:
            c = d.rpc()
            # Somebody else generates all the while.
            noise = d.new('noise')
            for _ in range(100):
                noise.send('session.generate', session='noise', max_tokens=10000)
            for sinks, window in ((4, 60), (0, 33), (17, 100)):
                for chunk in (1, 7, 64, 256):
                    r = c.call('score', text=text, sinks=sinks, window=window, chunk=chunk, per_token=True)
                    first = want.setdefault((sinks, window), r['per_token'])
                    check_equal(r['per_token'], first, f'{model} {sinks}+{window}, chunk {chunk}, {threads} threads')
                    check_equal(len(first), r['tokens'] - 1, 'scored tokens')
            check(c.call('session.info', session='noise')['state'] != 'idle', 'somebody else computed all the while')
            c.call('session.delete', session='noise')
    check(want[4, 60] != want[0, 33], 'windows matter')
    print(model, {f'{s}+{w}': round(sum(v) / len(v), 4) for (s, w), v in want.items()})
