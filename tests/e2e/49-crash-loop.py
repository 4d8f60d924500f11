"""A session that ends the engine twice is set aside by name; the daemon and the others go on."""
import os
import shutil
import signal
import sqlite3
import time

from harness import SLOW, Daemon, book, check, check_equal
import mprpc

# Slow steps (one thread, no SIMD), and a daemon that is stopped while it is looked at, so that a step can be met in the act.
with Daemon('--isa', 'scalar', threads=1) as d:
    c = d.rpc()
    c.call('session.create', session='good', raw=True, window=500)
    c.call('session.create', session='bad', raw=True, window=500, seed=4)
    ids = c.call('model.tokenize', text=book(30000).decode())['tokens'][:1500]

    def on_probation():
        """How often the disk says that it was being computed when the engine ended.  The daemon
        keeps its database to itself, so this looks at a copy."""
        copy = os.path.join(d.dir, 'copy')
        shutil.rmtree(copy, ignore_errors=True)
        os.mkdir(copy)
        for name in ('sinkd.db', 'sinkd.db-wal'):
            shutil.copy(os.path.join(d.state, name), copy)
        db = sqlite3.connect(os.path.join(copy, 'sinkd.db'))
        try:
            return db.execute("SELECT n_kill FROM sessions WHERE name = 'bad'").fetchone()[0]
        except sqlite3.DatabaseError:           # copied while it was being written
            return 0
        finally:
            db.close()

    def work():
        c = d.rpc()
        c.call('session.append', session='bad', tokens=ids)
        c.call('session.generate', session='bad', max_tokens=50)

    work()
    d.kill()
    for starts in range(1, 30):
        before = on_probation()
        d.start()
        info = d.rpc().call('session.info', session='bad')
        if info['state'] == 'set_aside':
            break
        if not info['queued']:                  # it got away: the step was over too soon
            work()
        end = time.monotonic() + 2 * SLOW
        while time.monotonic() < end:
            os.kill(d.process.pid, signal.SIGSTOP)
            if on_probation() > before:
                break
            os.kill(d.process.pid, signal.SIGCONT)
            time.sleep(0.001)
        d.process.send_signal(signal.SIGABRT)
        d.kill(signal.SIGCONT)                  # which it may have to go on to hear
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
