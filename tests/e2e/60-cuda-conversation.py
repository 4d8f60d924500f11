"""The daemon on the simulated CUDA device: the CPU's greedy tokens, SIGKILL in the act, and a move from one backend to
the other and back, whose checkpoints are of no use to each other: the transcript stays whole.

Prefill of many rows, by cuBLAS, has bits of its own: close to the others, and a cache that is made again is announced."""
import time

from harness import *

CUDA = simulated()
TEXT = 320                             # bytes of a text after which no two tokens are nearly as likely, for either
SAMPLED = dict(window=60, seed=5, temperature=0.9, top_k=0)


def greedy(*args):
    """A text and an nll; what server.info says."""
    with Daemon(*args, model=endless) as d:
        c = d.new(window=60, temperature=0)
        nll = c.call('score', text=book(TEXT).decode())['nll']
        c.call('session.append', session='a', text=book(TEXT).decode(), wait=True)
        c.call('session.generate', session='a', max_tokens=24)
        d.idle()
        info = c.call('server.info')
        return d.transcript(), nll, info['backend'], 'bitwise' in info['features'], c.call('server.stats')['whole_rows']


def whole_rows(**settings):
    """All logits of how many tokens came from the device, of 24?"""
    with Daemon(*CUDA, model=endless) as d:
        c = d.new(window=60, **settings)
        c.call('session.append', session='a', text=book(300).decode(), wait=True)
        c.call('session.generate', session='a', max_tokens=24)
        d.idle()
        return c.call('server.stats')['whole_rows']


def killed(args, times):
    """Three answers; the daemon is killed as often as told while they are made: what was written by then stays."""
    kept = []
    with Daemon(*args, '--slots', 1, model=endless) as d:
        c = d.new(**SAMPLED)
        d.new('b', **{**SAMPLED, 'seed': 6})
        for n in ('a', 'b', 'a'):          # one slot: each puts the other out
            c.call('session.append', session=n, text=book(200).decode())
            c.call('session.generate', session=n, max_tokens=30)
        for seconds in times:
            time.sleep(seconds * SLOW)
            d.kill()
            d.start()
            kept.append((d.transcript('a'), d.transcript('b')))
        d.idle('a'), d.idle('b')
        end = d.transcript('a'), d.transcript('b')
        for then in kept:
            check(all(e.startswith(t) for e, t in zip(end, then)), 'the transcripts go on', then, end)
        return end


cpu, cpu_nll, _, cpu_exact, n_cpu = greedy('--backend', 'cpu')
few, few_nll, _, _, n_few = greedy(*few_rows(CUDA))
many, many_nll, about, exact, n_many = greedy(*CUDA)
check(about.startswith('cuda: simulated'), 'server.info names the device', about)
check_equal((cpu_exact, exact), (True, False), 'bitwise')
check_equal(few, cpu, 'greedy text on both backends')
check(abs(few_nll - cpu_nll) < 1e-3, 'nll on both backends', few_nll, cpu_nll)
check(len(many) > TEXT + 20 and many.startswith(cpu[:TEXT]), 'a text after prefill by cuBLAS', many)
check(0 < abs(many_nll - few_nll) < 2e-2, 'nll by cuBLAS: close to the other, and not it', many_nll, few_nll)
check_equal((n_cpu, n_few, n_many), (0, 0, 0), 'whole rows, greedy')
check_equal((whole_rows(), whole_rows(top_k=0, top_p=1, min_p=0)), (0, 24), 'whole rows, as a session is made, and with anything')

calm = killed(few_rows(CUDA), ())
check(all(len(t) > 230 for t in calm), 'both have text', [len(t) for t in calm])
check_equal(killed(few_rows(CUDA), (0.05, 0.15, 0.3)), calm, 'the transcripts after three SIGKILLs')
got = killed(CUDA, (0.1, 0.3))
check(all(len(t) > 230 for t in got), 'both have text after two SIGKILLs', [len(t) for t in got])

with Daemon('--backend', 'cpu', model=endless) as d:
    c = d.new(**SAMPLED)
    c.call('session.append', session='a', text=book(300).decode(), wait=True)
    c.call('session.generate', session='a', max_tokens=20)
    d.idle()
    ours = d.args
    for backend in (CUDA, ('--backend', 'cpu')):
        before, n_log = d.transcript(), len(d.log_text())
        d.stop()
        d.args = ours[:-2] + list(backend)
        d.start()
        c, reader = d.rpc(), d.rpc()
        reader.call('session.follow', session='a', **{'from': 0})
        c.call('session.generate', session='a', max_tokens=20)
        d.idle()
        after, stats = d.transcript(), reader.call('server.stats')
        check(after.startswith(before) and len(after) > len(before), 'the transcript goes on', before, after)
        check_equal((stats['checkpoints_refused'], stats['rebuilt_sessions']), (1, 1), 'refused, rebuilt')
        check('it has another layout; it is built again from its log' in d.log_text()[n_log:], 'the log says why')
        states = [e['state'] for _, e in reader.notifications if e['kind'] == 'state']
        check('rebuilding' in states and ('rebuilt' in states) == (backend == CUDA), 'a rebuild is announced', states, backend)
