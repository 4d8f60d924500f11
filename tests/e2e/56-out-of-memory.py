"""Wherever an allocation fails, nothing acknowledged is lost, nobody is answered wrongly or left waiting, and what
others size never ends the daemon.

tests/e2e/nomemory.c makes the n-th allocation fail; each operation is tried with n = 0, 1, 2, ... until it no longer
comes to the n-th.  What the program itself sizes may end it, by abort(): each such place is tried once, and then
the session must be there again as it was.  The other session, to which the same happens undisturbed, says what is right."""
import mmap
import os
import resource
import shutil
import signal
import struct
import sys

import mprpc
from harness import SANITIZE, Daemon, Failed, book, check, check_equal, skip

if SANITIZE not in ('no', ''):
    skip('a sanitizer has its own allocator')
SHIM = os.path.abspath(os.path.join(os.environ.get('BUILDDIR', '.'), 'tests/e2e/nomemory.so'))
if not os.path.exists(SHIM):
    skip('no tests/e2e/nomemory.so: make check builds it')
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

OURS = 65536                           # bytes: what the program sizes itself is smaller
PATIENCE = 30
N_CALLER, N_KNOWN = 24, 128            # as nomemory.c has them
HEAD = struct.Struct('<8Q')            # armed, least, succeed, fail, n_asked, n_failed, size, n_known
CALLERS = HEAD.size + 8 * N_KNOWN
FILES = CALLERS + 8 * N_CALLER


class Memory:
    """The control file of nomemory.so."""

    def __init__(self, path):
        self.path, self.known = path, []
        with open(path, 'wb') as f:
            f.truncate(FILES + 64 * N_CALLER)
        with open(path, 'r+b') as f:
            self.map = mmap.mmap(f.fileno(), 0)

    def arm(self, n, least=0, fail=1):
        """Allocation n, counted from 0, is to fail; of the program's own those of least bytes count."""
        check(len(self.known) <= N_KNOWN, 'places that end the daemon', len(self.known))
        self.map[CALLERS:] = bytes(len(self.map) - CALLERS)
        self.map[:HEAD.size] = HEAD.pack(0, least, n, fail, 0, 0, 0, len(self.known))
        struct.pack_into(f'<{len(self.known)}Q', self.map, HEAD.size, *self.known)
        struct.pack_into('<Q', self.map, 0, 1)

    def disarm(self):
        """How many allocations there were, how many of them failed, and the size of the first of these."""
        struct.pack_into('<Q', self.map, 0, 0)
        return HEAD.unpack_from(self.map)[4:7]

    def callers(self):
        """(file, place in it) from where the first one that failed was called."""
        places = struct.unpack_from(f'<{N_CALLER}Q', self.map, CALLERS)
        names = (self.map[FILES + 64 * i:FILES + 64 * (i + 1)].split(b'\0')[0] for i in range(N_CALLER))
        return [(os.path.basename(name.decode()), hex(place)) for name, place in zip(names, places) if place]


class Try:
    def __init__(self, d, memory):
        self.d, self.memory, self.n_key, self.n_failed, self.ends = d, memory, 0, 0, []
        self.c = self.connect()

    def connect(self):
        c = mprpc.Client(self.d.socket, timeout=PATIENCE)
        c.call('hello', client='test', protocol=1)
        return c

    def again(self):
        """A connection, to a daemon that is alive; one that has ended is started again."""
        self.c.close()
        try:
            self.c = self.connect()
        except ConnectionError:
            self.ended(self.d.process.wait(timeout=PATIENCE))
            self.d.start()
            self.c = self.connect()
            self.second_chance()

    def ended(self, status):
        """It has: what it sizes itself may do that, and nothing else."""
        _, n_failed, size = self.memory.disarm()
        where = self.memory.callers()
        check_equal((status, n_failed), (-signal.SIGABRT, 1), f'the end of the daemon, {size} bytes for {where}')
        marks = 'pcre2' in where[0][0]         # of a turn, cut into tokens: it reserves 16 MiB to go back in
        check(marks or (where[0][0] in ('sinkd', 'libc.so.6') and size < OURS), 'ended for', size, where)
        check(marks or where not in self.ends, 'ended again for', where)
        self.ends.append(where)
        if where[0][0] == 'sinkd':
            self.memory.known.append(int(where[0][1], 16))

    def second_chance(self):
        """A session that was computed when the daemon ended is not to blame."""
        for s in self.c.call('session.list')['sessions']:
            if s['state'] == 'set_aside':
                self.c.call('session.set', session=s['session'], model='current')

    def once(self, operation, n, least):
        """Whether an allocation failed, and the answer; None: there was none, or an error that says memory is short."""
        self.memory.arm(n, least)
        try:
            got = operation(self.c)
        except mprpc.RpcError as e:
            self.memory.disarm()
            check_equal(e.name, 'memory', f'allocation {n}, {self.memory.callers()}: {e}')
            got = None
        except TimeoutError:
            raise Failed(f'allocation {n}: no answer; {self.memory.callers()}') from None
        except ConnectionError:
            got = None
        n_failed = self.memory.disarm()[1]
        if got is None:
            check(n_failed, 'refused without a reason: allocation', n)
            self.again()
        self.n_failed += n_failed
        return n_failed, got

    def sweep(self, operation, after, least=0, step=1):
        n = quiet = 0
        while quiet < 2:               # threads take turns: one try more
            n_known = len(self.memory.known)
            failed, got = self.once(operation, n, least)
            after(got)
            quiet = 0 if failed else quiet + 1
            n += 0 if len(self.memory.known) > n_known else step   # what has ended it does not count any more
            check(n < 3000, 'an end of it')
        return n


def transcript(c, session, at):
    events = []
    while True:
        r = c.call('session.read', session=session, **{'from': at})
        if not r['events']:
            return events, at
        at = r['next']
        events += [{k: v for k, v in e.items() if k not in ('session', 'time', 'request')} for e in r['events']]


def asking(t):
    """What only asks: an answer is the right one."""
    text = book(3000).decode()
    for method, params in (('session.info', {'session': 'a'}), ('session.list', {}), ('session.show', {'session': 'a'}),
                           ('session.read', {'session': 'a'}), ('session.read', {'session': 'a', 'wait_ms': 1000}),
                           ('server.info', {}), ('server.stats', {}), ('model.detokenize', {'tokens': [5 + i % 200 for i in range(2000)]}),
                           ('model.tokenize', {'text': text}), ('score', {'text': text[:200], 'per_token': True})):
        right = t.c.call(method, **params)

        def same(got):
            if got is not None and method not in ('server.stats', 'score', 'session.info', 'session.list'):
                check_equal(got, right, method)
            elif got is not None and method == 'score':
                check_equal((got['ids'], got['per_token']), (right['ids'], right['per_token']), method)
            else:
                check(got is None or got.keys() == right.keys(), method, got)
        n = t.sweep(lambda c: c.call(method, **params), same, step=3 if method in ('session.read', 'score') else 1)
        print(f'{method}: {n} allocations', flush=True)


def following(t):
    right = [e['seq'] for e in t.d.events('a')][:10]

    def follow(c):
        c.notifications.clear()
        c.call('session.follow', session='a', **{'from': 1})
        got, at = [], 1
        while len(got) < len(right):
            event = c.notification(PATIENCE)
            if event is None:
                raise TimeoutError
            if event[1]['kind'] == 'lagged':           # as if nothing had come: from there on
                c.call('session.follow', session='a', **{'from': event[1]['next']})
            elif event[1]['seq'] == at:
                got, at = got + [at], at + 1
        c.call('session.unfollow', session='a')
        return got
    n = t.sweep(follow, lambda got: check_equal(got or right, right, 'followed'), step=2)
    print(f'session.follow: {n} allocations', flush=True)


def making(t):
    """Sessions come and go; what there was no memory for is not there."""
    def make(c):
        t.n_key += 1                   # a name that was refused is free again, but not at once
        name = f'new-{t.n_key}'
        c.call('session.create', session=name, system='Be brief. ' * 20)
        c.call('session.rename', session=name, new_name=name + '-2')
        c.call('session.set', session=name + '-2', max_tokens=7)
        return c.call('session.delete', session=name + '-2')

    def clean(got):
        names = {s['session'] for s in t.c.call('session.list')['sessions']}
        check(names >= {'a', 'b'}, 'sessions', names)
        check(got is None or names == {'a', 'b'}, 'deleted', names)
        for name in names - {'a', 'b'}:
            t.c.call('session.delete', session=name)
    n = t.sweep(make, clean, step=3)
    t.d.restart()
    t.c = t.connect()
    clean({})                          # nor is it on disk
    print(f'making and removing a session: {n} allocations', flush=True)


def working(t):
    """What changes a session: done once, and as in the other one, whether the first try went through or not."""
    at = 1

    def append(c, name):
        return c.call('session.append', session=name, text=book(700).decode(), key=key(), wait=True)

    def append_ids(c, name):
        return c.call('session.append', session=name, tokens=[5 + i % 200 for i in range(3000)], key=key(), wait=True)

    def say(c, name):
        r = c.call('session.say', session=name, text='What is a river?', max_tokens=6, key=key())
        c.call('session.append', session=name, text='So.', role='user', key=key() + '+', wait=True)
        return r

    def key():
        return f'key-{t.n_key}'

    def same(got):
        nonlocal at
        for name in 'ab':              # again with the same key: done now, if it was not
            operation(t.c, name)
        a, b = transcript(t.c, 'a', at), transcript(t.c, 'b', at)
        check_equal(a, b, f'from entry {at} on, after {t.memory.callers()}')
        check(a[0], 'entries')
        at = a[1]
        t.n_key += 1
    for operation, step in ((append, 1), (append_ids, 3), (say, 4)):
        n = t.sweep(lambda c: operation(c, 'a'), same, step=step)
        print(f'{operation.__name__}: {n} allocations', flush=True)
    check_equal(transcript(t.c, 'a', 1), transcript(t.c, 'b', 1), 'all of it')


def starting(t):
    """A start that fails says why and ends; one that does not has everything."""
    d, right = t.d, transcript(t.c, 'a', 1)
    for least, tries in ((OURS, 30), (0, 40)):
        d.stop()
        t.memory.arm(1 << 40, least)
        d.start()
        n_all = t.memory.disarm()[0]
        for i in range(tries):
            d.kill() if i % 2 else d.stop()
            before = len(d.log_text())
            t.memory.arm(n_all * i // tries, least)
            try:
                d.start()
            except Failed:
                check(d.process.poll() is not None, 'a start that never ends')
                status, (_, n_failed, size) = d.process.returncode, t.memory.disarm()
                said, where = d.log_text()[before:], t.memory.callers()
                check(n_failed, 'a start failed without a reason', said)
                if status == -signal.SIGABRT:
                    check(where[0][0] in ('sinkd', 'libc.so.6') and size < OURS, 'ended for', size, where)
                else:
                    # The second is libc's word for a thread that there is no memory for.
                    check(status > 0 and ('memory' in said or 'Resource temporarily unavailable' in said),
                          'how a start failed', status, said, where)
                d.process, before = None, len(d.log_text())
                d.start()
                # Where the engine came to its turn all has been checked.
                check(i % 2 == 0 or 'engine' in said or 'all of it is checked' in d.log_text()[before:],
                      'a database that was not closed, after', said)
            t.n_failed += t.memory.disarm()[1]
            t.c = t.connect()
            t.second_chance()
            check_equal(transcript(t.c, 'a', 1), right, f'after a start, {t.memory.callers()}')
        print(f'a start: {n_all} allocations', flush=True)


def first_start(d, memory, tries=40):
    """What a first start that failed has left behind is not taken for a database that was lost."""
    for i in range(tries + 1):
        shutil.rmtree(d.state, ignore_errors=True)
        memory.arm(1 << 40 if i == 0 else n_all * (i - 1) // tries)
        try:
            d.start()
        except Failed:
            check(d.process.poll() is not None, 'a first start that never ends')
            d.process = None
        n_all = memory.disarm()[0] if i == 0 else n_all
        memory.disarm()
        if not d.process:
            d.start()
        c = mprpc.Client(d.socket, timeout=PATIENCE)
        c.call('session.create', session='a')
        c.close()
        d.stop()
    print(f'a first start: {n_all} allocations', flush=True)


with Daemon('--slots', 2, '--backend', 'cpu', start=False) as d:
    memory = Memory(os.path.join(d.dir, 'no-memory'))
    # glibc fills what is given back: who still reads that on some way of failing is seen.
    d.env.update(LD_PRELOAD=SHIM, SINKD_NO_MEMORY=memory.path, MALLOC_PERTURB_='165')
    d.start()
    t = Try(d, memory)
    t.sweep(lambda c: t.connect().call('session.list'), lambda got: None)
    for name in 'ab':
        t.c.call('session.create', session=name, sinks=4, window=60, seed=1, temperature=0.8)
        t.c.call('session.say', session=name, text='Hello there', max_tokens=4)
        d.idle(name)
    for part in (asking, following, making, working, starting):
        part(t)
    check(t.n_failed > 500, 'failures', t.n_failed)
    for words in ('malloc():', 'free():', 'double free', 'corrupted', 'Assertion'):
        check(words not in d.log_text(), 'in the log:', words)
    d.stop()
    first_start(d, memory)
    print(f'{t.n_failed} failures; {len(t.ends)} places end the daemon', file=sys.stderr)
