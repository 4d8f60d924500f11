"""A session whose log turns out to be damaged while it is at work is damaged, says why, and leaves nobody waiting; a
database that is damaged as a whole is read, and nothing is computed that could not be written."""
import os
import sqlite3
import subprocess
import time

import mprpc
from harness import SLOW, Daemon, check, check_equal, endless, wait_for


def refused(c, name, ids):
    for i in ids:
        try:
            c.wait(i)
            check(False, f'not refused as {name}')
        except mprpc.RpcError as e:
            check_equal(e.name, name, 'refused')
            check(name != 'session_damaged' or e.message.startswith('a: '), 'whose log it is', e.message)


with Daemon('--slots', 1, model=endless) as d:
    c = d.new('a', temperature=0.8)
    c.call('session.create', session='b', raw=True)
    for _ in range(54):                                # more entries than are verified at start
        for i in [c.send('session.append', session='a', text='x ') for _ in range(100)]:
            c.wait(i)
    d.idle('a')
    check(c.call('session.info', session='a')['seq'] > 10100, 'entries')
    d.stop()
    db = sqlite3.connect(os.path.join(d.state, 'sinkd.db'))
    check_equal(db.execute("update log set text = x'79' where session = (select session from log where seq = 300) and seq = 3").rowcount, 1)
    db.commit()
    db.close()
    d.start()
    c = d.rpc()
    reader = d.sink_popen('generate', 'a', '-n', '500000', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: c.call('session.info', session='a')['state'] == 'generating', what='generating')
    waiter = d.rpc()
    waits = [waiter.send('session.append', session='a', text='zz', wait=True)]
    waiter.call('session.info', session='a')
    refused(c, 'session_damaged', [c.send('session.read', session='a')])
    refused(waiter, 'session_damaged', waits)
    wait_for(lambda: c.call('session.info', session='a')['state'] == 'damaged', what='damaged')
    said = reader.communicate(timeout=60 * SLOW)[1]
    check(reader.returncode == 1 and b'session_damaged' in said, 'who reads the answer hears it', reader.returncode, said)
    check('entry 3' in c.call('session.info', session='a')['why'], 'why', c.call('session.info', session='a'))
    position = c.call('session.info', session='a')['position']
    refused(c, 'session_damaged', [c.send('session.cancel', session='a'), c.send('session.append', session='a', text='y')])
    c.call('session.append', session='b', text='hello', wait=True)
    check_equal(c.call('session.info', session='a')['position'], position, 'nothing is added')

with Daemon('--slots', 1, model=endless) as d:
    c = d.new('a', temperature=0.8)
    c.call('session.generate', session='a', max_tokens=5000000)
    wait_for(lambda: c.call('session.info', session='a')['seq'] > 200, what='an answer')
    d.kill()                                           # in the middle of its work
    path = os.path.join(d.state, 'sinkd.db')
    db = sqlite3.connect(path)                         # what is in the write-ahead log goes into the file
    db.execute('pragma wal_checkpoint(truncate)')
    root = db.execute("select rootpage from sqlite_master where name = 'queue_kept'").fetchone()[0]
    size = db.execute('pragma page_size').fetchone()[0]
    db.close()
    with open(path, 'r+b') as f:
        f.seek((root - 1) * size)
        f.write(b'\x7f' * 64)
    d.start()
    c = d.rpc()
    before = c.call('server.stats')['computed_tokens']
    refused(c, 'read_only', [c.send('session.cancel', session='a'), c.send('session.append', session='a', text='y', wait=True)])
    time.sleep(0.5)
    check_equal((before, c.call('server.stats')['computed_tokens']), (0, 0), 'computed')

# A start reads all of a database only where it was not closed, or was changed since; what has rotted elsewhere is found
# when it is read.
CHECKED = 'all of it is checked'
with Daemon() as d:
    path = os.path.join(d.state, 'sinkd.db')
    c = d.new('a')
    c.call('session.append', session='a', text='word ' * 20000, wait=True)
    c.call('session.create', session='b', raw=True)
    d.stop()
    at = open(path, 'rb').read().index(b'word word') // 4096 * 4096         # a page of text that the log's row goes on with

    def start():
        said = len(d.log_text())
        d.start()
        return CHECKED in d.log_text()[said:]

    check_equal(start(), False, 'a check after a stop')
    d.kill()
    check_equal(start(), True, 'a check after a crash')
    d.stop()
    check_equal(start(), False, 'a check after a stop again')
    d.stop()
    was = os.stat(path)
    with open(path, 'r+b') as f:
        f.seek(at)
        f.write(b'\xff' * 64)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    check_equal(start(), False, 'a check of what says that it is as it was')
    try:
        d.rpc().call('session.read', session='a')
        check(False, 'read what has rotted')
    except mprpc.RpcError as e:
        check(e.name in ('session_damaged', 'read_only'), 'what has rotted', e)
    d.kill()
    check_equal(start(), True, 'a check of a database that is damaged')
    try:
        d.rpc().call('session.append', session='b', text='x')
        check(False, 'written into a damaged database')
    except mprpc.RpcError as e:
        check_equal(e.name, 'read_only', 'a damaged database')
    d.stop()
    check_equal(start(), True, 'a check of one that was damaged before')
