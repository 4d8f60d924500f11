"""Checkpoints deleted, cut or changed: the session is rebuilt from its log, and goes on with the same tokens."""
import glob
import os

from harness import Daemon, book, check, check_equal

NAMES = ('kept', 'deleted', 'cut', 'flipped', 'foreign')

with Daemon() as d:
    c = d.rpc()
    for n in NAMES:
        c.call('session.create', session=n, raw=True, sinks=4, window=28, seed=21, temperature=1, top_k=0, top_p=1, min_p=0)
        c.call('session.append', session=n, text=book(2000).decode(), wait=True)
        c.call('session.generate', session=n, max_tokens=40)
    for n in NAMES:
        d.idle(n)
    answers = [d.transcript(n) for n in NAMES]
    check(all(a == answers[0] for a in answers), 'the same seed and text give the same answer')

    d.stop()
    files = sorted(glob.glob(os.path.join(d.state, 'checkpoint', '*.kv')), key=lambda f: int(os.path.basename(f)[:-3]))
    check_equal(len(files), len(NAMES), 'checkpoints after a clean stop')
    of = dict(zip(NAMES, files))
    os.unlink(of['deleted'])
    with open(of['cut'], 'r+b') as f:
        f.truncate(os.path.getsize(of['cut']) // 2)
    with open(of['flipped'], 'r+b') as f:
        f.seek(os.path.getsize(of['flipped']) // 3)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 4]))
    with open(of['kept'], 'rb') as f, open(of['foreign'], 'wb') as g:
        g.write(f.read())

    n_log = len(d.log_text())
    d.start()
    c = d.rpc()
    for n in NAMES:
        c.call('session.generate', session=n, max_tokens=60)
    for n in NAMES:
        d.idle(n)
    answers = {n: d.transcript(n) for n in NAMES}
    for n in NAMES:
        check_equal(answers[n], answers['kept'], f'{n}: the continuation')
    said = d.log_text()[n_log:]
    check('bad_checkpoint' in said or 'checkpoint' in said, 'a bad checkpoint is named in the log', said)

# An answer that ended before its first token adds an entry and no tokens: the checkpoint knows of it.
with Daemon() as d:
    c = d.new('a')
    c.call('session.append', session='a', text=book(2000).decode(), wait=True)
    d.idle('a')
    d.restart()
    c = d.rpc()
    begun, stop = c.send('session.generate', session='a', max_tokens=3000), c.send('session.cancel', session='a')
    check_equal(c.wait(stop)['cancelled'], True)
    c.wait(begun)
    d.idle('a')
    check_equal(d.events('a')[-1].get('tokens', 0), 0, 'tokens of the last entry')
    d.restart()
    c = d.rpc()
    c.call('session.append', session='a', text='x', wait=True)
    d.idle('a')
    stats = c.call('server.stats')
    check_equal((stats['checkpoints_loaded'], stats['checkpoints_refused'], stats['rebuilt_sessions']), (1, 0, 0), 'checkpoints')
