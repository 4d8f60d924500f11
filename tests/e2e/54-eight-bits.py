"""Caches, or activations, of eight bits: the same answer after SIGKILL, and a session goes on when that changes."""
from harness import Daemon, book, check, check_equal, run_sinkd

CASES = (('--kv-type', 'f16', 'q8'), ('--activation-bits', '15', '8'))
SHAPE = dict(raw=True, sinks=4, window=60, seed=21, temperature=1, top_k=0, top_p=1, min_p=0)


def begin(d, name):
    c = d.rpc()
    c.call('session.create', session=name, **SHAPE)
    c.call('session.append', session=name, text=book(2000).decode(), wait=True)
    c.call('session.generate', session=name, max_tokens=40)
    d.idle(name)


def go_on(d, name):
    d.rpc().call('session.generate', session=name, max_tokens=60)
    d.idle(name)
    return d.transcript(name)


for option, usual, eight in CASES:
    with Daemon(option, eight) as d:
        for name in 'whole', 'killed', 'changed':
            begin(d, name)
        want, kept = go_on(d, 'whole'), d.transcript('changed')
        d.kill()
        d.start()
        check_equal(go_on(d, 'killed'), want, f'{option} {eight}: the answer after SIGKILL')
        d.stop()
        d.args = [usual if a == eight else a for a in d.args]
        said, before = len(d.log_text()), kept
        d.start()
        after = go_on(d, 'changed')
        check(after.startswith(before) and len(after) > len(before), f'{option}: a session goes on when it changes', before[-80:], after[-160:])
        check('another layout' in d.log_text()[said:], f'{option}: a checkpoint of the other kind is named in the log')

# Sinks are halves, and take more than the bytes of the rest: the largest windows, whatever of them are sinks
with Daemon('--kv-type', 'q8') as d:
    most = d.rpc().call('server.info')['limits']['window'] - 1
    for sinks in 0, 1, most // 2, most - 1:
        c, name = d.rpc(), f's{sinks}'
        c.call('session.create', session=name, raw=True, sinks=sinks, window=most - sinks)
        c.call('session.append', session=name, text=book(3000).decode(), wait=True)
        c.call('session.generate', session=name, max_tokens=5)
        d.idle(name)

r = run_sinkd('--activation-bits', '4', '--model', 'x', '--check-config')
check(r.code == 2 and '15|8' in r.err, 'activations of four bits are refused', r.err)
