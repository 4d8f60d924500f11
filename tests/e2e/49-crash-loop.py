"""A session that ends the engine twice is set aside by name; the daemon and the others go on."""
import os
import sqlite3
import time

from harness import Daemon, book, check, check_equal
import mprpc

# Slow steps (one thread, no SIMD, long chunks), so that a step can be met in the act.
with Daemon('--chunk', 4096, '--isa', 'scalar', threads=1) as d:
    c = d.rpc()
    c.call('session.create', session='good', raw=True, window=900)
    c.call('session.create', session='bad', raw=True, window=900, seed=4)
    ids = c.call('model.tokenize', text=book(60000).decode())['tokens']

    def killed_in_the_act():
        """Waits until the disk says that a session is being computed on probation, and kills."""
        db = sqlite3.connect(f'file:{os.path.join(d.state, "sinkd.db")}?mode=ro', uri=True)
        before, = db.execute("SELECT n_kill FROM sessions WHERE name = 'bad'").fetchone()
        end = time.monotonic() + 30
        while db.execute("SELECT n_kill FROM sessions WHERE name = 'bad'").fetchone()[0] == before:
            check(time.monotonic() < end, 'the session was never on probation')
        d.kill()
        db.close()

    c.call('session.append', session='bad', tokens=ids)
    c.call('session.generate', session='bad', max_tokens=50)
    d.kill()
    starts = 0
    while starts < 6:
        starts += 1
        d.start()
        info = d.rpc().call('session.info', session='bad')
        if info['state'] == 'set_aside':
            break
        try:
            killed_in_the_act()
        except sqlite3.OperationalError as e:
            check('locked' in str(e), 'sqlite', str(e))
            d.kill()
    check_equal(info['state'], 'set_aside', 'the crash loop ends')
    print(f'set aside after {starts} starts: {info["why"]}')
    check(info['why'], 'why')
    c = d.rpc()
    try:
        c.call('session.generate', session='bad', max_tokens=1)
        check(False, 'a session that was set aside should refuse')
    except mprpc.RpcError as e:
        check_equal(e.name, 'session_set_aside')
    check(c.call('session.read', session='bad')['events'], 'it can be read')
    c.call('session.generate', session='good', max_tokens=5)
    d.idle('good')
    check(d.transcript('good') is not None, 'another session works')

    # It gets another chance when its owner says so, and nothing was lost.
    c.call('session.set', session='bad', model='current')
    d.idle('bad')
    check(any(e['kind'] == 'turn' and e['state'] == 'end' for e in d.events('bad')), 'its answer is finished')
