"""SIGKILL at twenty random moments: nothing acknowledged is lost or doubled, and the transcript is that of an undisturbed run."""
import random
import sys
import time

from harness import SLOW, Daemon, book, check, check_equal
import mprpc

KILLS = 20
TEXT = book(1 << 16).decode()
GONE = (ConnectionError, OSError, mprpc.Gone)


def operations():
    """Appends and generations, short and long, each with a key."""
    rng = random.Random(2)
    for i in range(KILLS):
        begin = rng.randrange(len(TEXT) // 2)
        length = rng.choice((10, 300, 3000, 20000))
        yield 'session.append', dict(session='a', text=TEXT[begin:begin + length], key=f'append {i}')
        yield 'session.generate', dict(session='a', max_tokens=rng.choice((5, 60, 1000)), key=f'generate {i}')


def run(kill_times):
    with Daemon('--slots', 2) as d:
        c = d.new('a', window=60, seed=77, temperature=0.9, max_tokens=100)
        acknowledged, kills, in_the_act = {}, 0, 0

        def retry(method, params):
            """Sends it until it is answered, starting the daemon again as often as it takes."""
            nonlocal c
            while True:
                try:
                    return c.call(method, **params)['request']
                except GONE:
                    if not d.alive():
                        d.start()
                    c = d.rpc()
        pending = []
        for i, (method, params) in enumerate(operations()):
            pending.append((method, params))
            if i % 2 == 0:
                continue
            if kill_times:
                # Sent without waiting; the daemon dies with some of it received, accepted, begun or done.
                for m, p in pending:
                    c.send(m, **p)
                time.sleep(kill_times.pop())
                d.kill()
                kills += 1
                d.start()
                in_the_act += d.rpc().call('session.info', session='a')['state'] != 'idle'
                c = d.rpc()
            for m, p in pending:
                number = retry(m, p)
                check_equal(acknowledged.setdefault(p['key'], number), number, 'the reply to a key')
            pending = []
        d.idle('a')
        for m, p in operations():
            check_equal(retry(m, p), acknowledged[p['key']], 'the reply to a key, at the end')
        d.idle('a')
        return [{k: v for k, v in e.items() if k not in ('time', 'window_start', 'forgotten')} for e in d.events('a')], (kills, in_the_act)


seed = int(sys.argv[1]) if len(sys.argv) > 1 else 5
rng = random.Random(seed)
calm, _ = run([])
wild, (kills, in_the_act) = run([rng.choice((0.002, 0.01, 0.05, 0.2)) * rng.random() * SLOW for _ in range(KILLS)])
check_equal(kills, KILLS, 'kills')
check(in_the_act >= 5, 'kills that interrupted something', in_the_act)
for a, b in zip(calm, wild):
    check_equal(b, a, 'entry of the log')
check_equal(len(wild), len(calm), 'entries of the log')
check(sum(e['kind'] == 'turn' and e['state'] == 'end' for e in calm) == KILLS, 'answers')
print(f'{len(calm)} entries, {calm[-1]["position"]} tokens, the same after {kills} kills, {in_the_act} of them in the act')
