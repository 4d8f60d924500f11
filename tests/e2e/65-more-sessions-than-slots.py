"""Five sessions take turns in two slots: each one's text is what it is alone, whether its cache waits in the
machine's memory, on disk, or a bit of both; and after SIGKILL while some of them wait.  Who follows one is told when its
cache is read, and when that is over."""
from harness import *

NAMES = [f's{i}' for i in range(5)]
ROUNDS = 6


def make(d):
    c = d.rpc()
    for i, n in enumerate(NAMES):
        c.call('session.create', session=n, raw=True, sinks=4, window=40 + 8 * (i % 2), seed=i + 1, temperature=0.9)
        c.call('session.append', session=n, text=book(700, 100 * i).decode(), wait=True)
    return c


def play(d, c, rounds, together):
    """Some tokens for every session, in turn: one after another, or all at once."""
    for _ in range(rounds):
        for n in NAMES:
            c.call('session.generate', session=n, max_tokens=9)
            if not together:
                d.idle(n)
        for n in NAMES:
            d.idle(n)


def run(*args, together=False, kill=False):
    with Daemon(*args, model=endless) as d:
        c = make(d)
        play(d, c, ROUNDS // 2, together)
        stats = c.call('server.stats')
        info = c.call('server.info')
        if kill:
            d.restart(signal.SIGKILL)
            c = d.rpc()
        play(d, c, ROUNDS - ROUNDS // 2, together)
        return [d.transcript(n) for n in NAMES], stats, info


alone = []
with Daemon('--slots', 8, model=endless) as d:
    c = make(d)
    for n in NAMES:
        for _ in range(ROUNDS):
            c.call('session.generate', session=n, max_tokens=9)
            d.idle(n)
    alone = [d.transcript(n) for n in NAMES]
    check_equal(c.call('server.stats')['slots_evicted'], 0, 'slots taken from anybody')
    slot = c.call('session.info', session=NAMES[1])['memory']
check(len(set(alone)) == len(NAMES) and min(map(len, alone)) > 750, 'five texts of their own', [len(a) for a in alone])

for what, memory, together, kill in (('in memory', '64M', False, False), ('at once', '64M', True, False),
                                     ('on disk', '0', False, False), ('two of them in memory', 2 * slot, False, False),
                                     ('in memory, killed', '64M', False, True), ('on disk, killed', '0', True, True)):
    texts, stats, _ = run('--slots', 2, '--swap-memory', memory, together=together, kill=kill)
    for n, got, want in zip(NAMES, texts, alone):
        check_equal(got, want, f'{what}: the text of {n}')
    out, back, disk = (stats[k] for k in ('swapped_out', 'swapped_in', 'checkpoints_loaded'))
    check(stats['slots_evicted'] >= 10, f'{what}: sessions that left', stats)
    if memory == '64M':
        check(out >= 10 and back >= 10 and disk == 0, f'{what}: out, back, from disk', out, back, disk)
    elif memory == '0':
        check(out == 0 and back == 0 and disk >= 10, f'{what}: out, back, from disk', out, back, disk)
    else:
        check(disk > 0 and out > 0, f'{what}: out, back, from disk', out, back, disk)
    check(stats['swap_bytes'] <= (64 << 20 if memory == '64M' else int(memory)) + 2 * slot,
          f'{what}: the machine\'s memory', stats['swap_bytes'])
    check_equal(stats['rebuilt_sessions'], 0, f'{what}: rebuilt')

for memory in ('0', '64M'):
    with Daemon('--slots', 1, '--swap-memory', memory, model=endless) as d:
        c, f = make(d), d.rpc()
        f.call('session.follow', session=NAMES[0])
        play(d, c, 2, False)
        f.call('server.stats')
        states = [e['state'] for _, e in f.notifications if e['kind'] == 'state']
        check(len(states) >= 4 and states[::2] == ['loading'] * (len(states) // 2) and
              set(states[1::2]) <= {'idle', 'generating'}, 'a cache that is read', states)
