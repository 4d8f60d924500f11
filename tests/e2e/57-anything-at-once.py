"""Six clients ask for anything, many requests at a time, and leave when they like; the disk fills up, the daemon is killed
and stopped.  Every request is answered, no two sessions have one name, logs have no gaps, and what was acknowledged is
there once and in order.  What is asked is the same each time, what meets what is not."""
import collections
import os
import random
import resource
import signal
import socket
import threading
import time

from harness import SLOW, Daemon, check, check_equal
import mprpc

ROUNDS = 10
ANSWERS = (300, 1500)                   # of a round, least and most
PATIENCE = 30 * SLOW
KEPT, OTHERS = ('keep0', 'keep1', 'keep2'), ('a', 'b', 'c', 'd', 'e')
NO_LIMIT = resource.RLIM_INFINITY
# What a request may be refused as, beside what is wrong with it
ANY = {'bad_param', 'no_session', 'disk', 'stopping', 'memory'}
ALSO = {
    'session.create': {'session_exists', 'window_too_large'},
    'session.append': {'role_unknown', 'repeated_key', 'key_reused', 'cap_queued'},
    'session.say': {'key_reused', 'cap_queued'}, 'session.generate': {'key_reused'},
    'session.rename': {'session_exists'}, 'session.follow': {'cancelled'}, 'session.fork': {'not_finished'},
}


def text(rng):
    return rng.choice(('word ' * rng.randrange(20), bytes(rng.randrange(256) for _ in range(30)), 'é漢😀' * rng.randrange(200),
                       'long ' * rng.randrange(5000)))


def settings(rng):
    every = {'max_tokens': rng.choice((0, 1, 3, 20, 200, 5000)), 'temperature': rng.choice((0, 0.5, 2, -1, float('nan'))),
             'top_k': rng.choice((0, 1, 40, 1 << 40)), 'top_p': rng.choice((0, 0.5, 1, 2)), 'seed': rng.getrandbits(63),
             'stop': rng.choice(('a', ['e', 't'], '', ['x'] * 20)), 'repeat_penalty': rng.choice((1, 1.3, 0))}
    return {k: v for k, v in every.items() if rng.random() < 0.2}


def some(rng, often, /, **params):
    return params if rng.random() < often else {}


def keyed(rng):
    return some(rng, 0.3, key=f'key {rng.randrange(30)}')


# method: (how often, parameters of it beside the session)
ASKED = {
    'session.create': (6, lambda r: {**some(r, 0.5, window=r.choice((16, 64, 100, 10**6))), **some(r, 0.3, system=text(r)),
                                     **some(r, 0.3, pin=True), **some(r, 0.3, raw=True), **some(r, 0.3, **settings(r))}),
    'session.append': (8, lambda r: {'text': text(r), **keyed(r), **some(r, 0.2, wait=True),
                                     **some(r, 0.3, role=r.choice(('user', 'system', 'tool', 'raw', 'no')))}),
    'session.generate': (6, lambda r: {'max_tokens': 20, **settings(r), **keyed(r), **some(r, 0.3, until_disconnect=True)}),
    'session.say': (6, lambda r: {'max_tokens': 20, 'text': text(r), **settings(r), **keyed(r)}),
    'session.read': (6, lambda r: {**some(r, 0.7, **{'from': r.choice((0, 1, 5, 100, 1 << 63))}), **some(r, 0.5, limit=r.choice((0, 1, 9999))),
                                   **some(r, 0.3, wait_ms=r.choice((1, 50, 300)))}),
    'session.follow': (5, lambda r: some(r, 0.6, **{'from': r.choice((0, 1, 5, 10**9))})),
    'session.unfollow': (3, lambda r: {}), 'session.cancel': (5, lambda r: {}), 'session.show': (3, lambda r: {}),
    'session.set': (3, lambda r: {**settings(r), **some(r, 0.2, share=r.choice(('none', 'group-read', 'no')))}),
    'session.rename': (4, lambda r: {'new_name': r.choice(OTHERS)}),
    'session.delete': (4, lambda r: {}), 'session.info': (3, lambda r: {}), 'session.fork': (0.3, lambda r: {'new_name': 'z'}),
    'score': (1, lambda r: {'text': 'Once upon a time ' * r.randrange(1, 40), 'window': 60, 'sinks': 4}),
    'session.list': (1, lambda r: {}), 'server.stats': (1, lambda r: {}), 'server.info': (1, lambda r: {}),
    'model.tokenize': (1, lambda r: {'text': text(r)}),
}


def request(rng):
    method = rng.choices(list(ASKED), [often for often, _ in ASKED.values()])[0]
    params = ASKED[method][1](rng)
    if method.startswith('session.') and method != 'session.list':
        params['session'] = rng.choice(OTHERS)
    return method, params


class Asker(threading.Thread):
    """One client after another.  said: the marks that each appended to a session that stays; acked: those of them that
    the daemon has taken."""

    def __init__(self, d, i):
        super().__init__(daemon=True)
        self.pause, self.resting, self.d, self.rng, self.end, self.n_answer, self.n_client, self.wrong = False, False, d, random.Random(i), False, 0, 0, []
        self.said, self.acked = collections.defaultdict(list), set()
        self.start()

    def run(self):
        try:
            self.ask()
        except BaseException as e:
            self.wrong.append(repr(e))

    def ask(self):
        while not self.end:
            self.resting = self.pause
            if self.resting:
                time.sleep(0.01)
                continue
            try:
                c = mprpc.Client(self.d.socket, timeout=PATIENCE)
            except OSError:
                time.sleep(0.02)
                continue
            self.n_client += 1
            try:
                for _ in range(self.rng.randrange(1, 30)):
                    if not self.some_requests(c):
                        break
            except ConnectionError:
                pass
            finally:
                c.close()

    def some_requests(self, c):
        """false: the client leaves, with answers still to come."""
        sent = []
        for _ in range(self.rng.choice((1, 1, 2, 3, 8, 25))):
            if self.rng.random() < 0.1:
                name, mark = self.rng.choice(KEPT), f'<{self.rng.getrandbits(60)}>'
                self.said[name, self.n_client].append(mark)
                sent.append((c.send('session.append', session=name, text=mark, role='raw'), 'session.append', mark))
            else:
                method, params = request(self.rng)
                sent.append((c.send(method, **params), method, None))
        if self.rng.random() < 0.04:
            return False
        if self.rng.random() < 0.04:
            c.socket.shutdown(socket.SHUT_WR)
        for id, method, mark in sent:
            self.answered(c, id, method, mark)
        c.notifications.clear()
        return not self.end and not self.pause

    def answered(self, c, id, method, mark):
        end = time.monotonic() + PATIENCE
        try:
            while id not in c.answers:
                check(time.monotonic() < end, f'{method}: no answer within {PATIENCE} s')
                try:
                    c.receive(timeout=1)
                except socket.timeout:
                    pass
            c.wait(id)
            if mark:
                self.acked.add(mark)
        except mprpc.RpcError as e:
            if e.name not in ANY | ALSO.get(method, set()) and not e.name.startswith('cap_'):
                self.wrong.append(f'{method}: {e}')
        self.n_answer += 1


def texts(c, name):
    """What was appended to a session, read page by page; seqs without gaps, positions that follow."""
    seq, position, out = 1, 0, []
    while True:
        page = c.call('session.read', session=name, **{'from': seq, 'limit': 500})['events']
        if not page:
            return ''.join(out)
        for e in page:
            check_equal((e['seq'], e['position']), (seq, position), f'an entry of {name}')
            seq, position = seq + 1, position + e.get('tokens', 0)
            if e.get('role') != 'assistant' and isinstance(e.get('text'), str):
                out.append(e['text'])


def look(d, askers):
    c = d.rpc(timeout=PATIENCE)
    names = [s['session'] for s in c.call('session.list')['sessions']]
    check_equal(sorted(set(names)), sorted(names), 'names')
    check(set(KEPT) <= set(names), 'sessions are lost:', names)
    for name in names:
        if name in KEPT:
            d.idle(name, PATIENCE)
        there = texts(c, name)
        for a in askers:
            for (_, marks) in (x for x in a.said.items() if x[0][0] == name):
                check_marks(there, marks, a.acked)


def check_marks(there, marks, acked):
    """Of one client: in order, each once, those that were not acknowledged perhaps."""
    places = []
    for mark in marks:
        n = there.count(mark)
        check(n == 1 if mark in acked else n <= 1, f'{mark}, acknowledged: {mark in acked}: so often:', n)
        places += [there.index(mark)] if n else []
    check_equal(places, sorted(places), 'places of what one client appended')


def wait_answers(d, askers, n):
    goal, end = sum(a.n_answer for a in askers) + n, time.monotonic() + 2 * PATIENCE
    while sum(a.n_answer for a in askers) < goal:
        check(d.alive(), 'the daemon has ended')
        check(not any(a.wrong for a in askers), [a.wrong for a in askers])
        check(time.monotonic() < end, 'no more answers come')
        time.sleep(0.01)


def all_answered(d, askers):
    """Nobody asks for more until everybody has had all answers."""
    end = time.monotonic() + 2 * PATIENCE
    for a in askers:
        a.pause = True
    while not all(a.resting for a in askers):
        check(not any(a.wrong for a in askers), [a.wrong for a in askers])
        check(d.alive(), 'the daemon has ended')
        check(time.monotonic() < end, 'a client waits')
        time.sleep(0.01)
    for a in askers:
        a.pause = False


def full_disk(d, askers, rng):
    """No file may grow beyond what the log of the database has now, or little more."""
    wal = os.path.join(d.state, 'sinkd.db-wal')
    most = rng.choice((0, (os.path.getsize(wal) if os.path.exists(wal) else 0) + rng.randrange(100000)))
    resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (most, NO_LIMIT))
    wait_answers(d, askers, rng.randrange(*ANSWERS))
    if rng.random() < 0.7:
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
        wait_answers(d, askers, rng.randrange(*ANSWERS))
        all_answered(d, askers)


rng = random.Random(57)
with Daemon('--slots', 3) as d:
    for name in KEPT:
        d.new(name, raw=True, window=64)
    askers = [Asker(d, i) for i in range(6)]
    for i in range(ROUNDS):
        wait_answers(d, askers, rng.randrange(*ANSWERS))
        if i % 2:
            full_disk(d, askers, rng)
        elif i % 4 == 0:
            all_answered(d, askers)
        check(d.alive(), 'the daemon has ended')
        d.restart(rng.choice((signal.SIGKILL, signal.SIGTERM)))
    for a in askers:
        a.end = True
    for a in askers:
        a.join(2 * PATIENCE)
        check(not a.is_alive(), 'a client waits')
        check(not a.wrong, a.wrong)
    look(d, askers)
    d.restart()
    look(d, askers)
