"""A scripted peer: the daemon's side of a connection, played by a test.  It lets a test of the
client be exact about what a real daemon does once in a thousand runs: answers out of order,
a connection cut between a request and its answer, a full queue, nonsense.

    with Peer() as peer:
        p = peer.start('append', 'a', 'text')      # the client, as a process
        c = peer.accept()
        id, method, params = c.request()
        c.answer(id, {'request': 1})
        peer.finish(p, 0)
"""
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import msgpack

SINK = os.path.abspath(os.environ.get('SINK', './sink'))
SECONDS = 20 if os.environ.get('SANITIZE', 'no') == 'no' else 60


# Shells let what they start in the background ignore it, and so would the client.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Connection:
    def __init__(self, s):
        self.s = s
        s.settimeout(SECONDS)
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 24)

    def request(self):
        """(id, method, parameters) of the next request; None at the end."""
        while True:
            for kind, id, method, (params,) in self.unpacker:
                assert kind == 0, kind
                return id, method, params
            data = self.s.recv(65536)
            if not data:
                return None
            self.unpacker.feed(data)

    def expect(self, method):
        id, got, params = self.request()
        assert got == method, f'{got} came instead of {method}'
        return id, params

    def nothing(self, seconds=0.3):
        """No request comes for that long."""
        self.s.settimeout(seconds)
        try:
            got = self.request()
            raise AssertionError(f'{got} came')
        except TimeoutError:
            self.s.settimeout(SECONDS)

    def send(self, *values):
        """All in one write: who reads the first cannot be gone before the last is sent."""
        self.s.sendall(b''.join(map(msgpack.packb, values)))

    def answer(self, id, result):
        self.send([1, id, None, result])

    def refuse(self, id, error):
        self.send([1, id, error, None])

    def comes(self):
        """Waits until there is something to read, and leaves it."""
        assert select.select([self.s], [], [], SECONDS)[0], 'nothing comes'

    def cut(self):
        self.s.close()


class Peer:
    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix='sink-test.')
        self.path = os.path.join(self.dir.name, 'sock')
        self.bind()
        self.listen()
        self.processes = []
        return self

    def bind(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.settimeout(SECONDS)

    def listen(self):
        self.listener.listen(8)

    def fill(self):
        """Nobody is accepted any more, and who connects has to wait: the connections that wait already."""
        waiting = []
        while True:
            s = socket.socket(socket.AF_UNIX)
            s.setblocking(False)
            waiting.append(s)
            try:
                s.connect(self.path)
            except BlockingIOError:
                return waiting

    def leave(self):
        """Nobody listens any more."""
        self.listener.close()
        os.unlink(self.path)

    def __exit__(self, *_):
        for p in self.processes:
            if p.poll() is None:
                p.kill()
            p.wait()
        self.listener.close()
        self.dir.cleanup()

    def start(self, *args, input=None):
        """`input`: all of it is there at once, as in a file; else whatever the test writes, when it does."""
        with tempfile.TemporaryFile() as f:
            f.write(input or b'')
            f.seek(0)
            p = subprocess.Popen([SINK, '-S', self.path, *args], stdin=subprocess.PIPE if input is None else f,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.processes.append(p)
        return p

    def accept(self):
        return Connection(self.listener.accept()[0])

    def finish(self, p, code, input=None):
        """The client ends with this code: its output and its errors."""
        out, err = p.communicate(input, timeout=SECONDS)
        err = err.decode(errors='replace')
        assert p.returncode == code, f'exit {p.returncode}, not {code}: {err}'
        return out, err


@contextlib.contextmanager
def stopped(p):
    """What happens meanwhile is there all at once when the client looks."""
    p.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, p.pid, os.WSTOPPED | os.WNOWAIT)
    yield
    p.send_signal(signal.SIGCONT)


def lost(p):
    """Waits until the client knows that its connection is cut."""
    def connected():
        try:
            return any(os.readlink(f.path).startswith('socket:') for f in os.scandir(f'/proc/{p.pid}/fd'))
        except FileNotFoundError:              # it tries to connect
            return True

    end = time.monotonic() + SECONDS
    while connected():
        assert time.monotonic() < end, 'it is still connected'
        time.sleep(0.01)


def cancel_unanswered(peer, p, c, again):
    """Ctrl-C, and nobody answers the cancel: that is given up after 5 s, or with another Ctrl-C."""
    p.send_signal(signal.SIGINT)
    c.expect('session.cancel')
    t = time.monotonic()
    if again:
        p.send_signal(signal.SIGINT)
    _, err = peer.finish(p, 130)
    assert LEFT in err, err
    assert again or time.monotonic() - t > 4, 'an end before its time'


def until(f, want):
    """What comes out of a pipe until `want` has, that included."""
    got, end = b'', time.monotonic() + SECONDS
    while not got.endswith(want):
        assert select.select([f], [], [], max(0, end - time.monotonic()))[0], f'no {want!r} behind {got!r:.300}'
        data = os.read(f.fileno(), 1)
        assert data, f'no {want!r} behind {got!r:.300}'
        got += data
    return got


# ---- entries of session a's log ----

def event(seq, kind, request=7, **more):
    return {'session': 'a', 'seq': seq, 'time': 0, 'kind': kind, 'position': 0, 'request': request,
            'window_start': 4, 'forgotten': 0, **more}


def begin(seq, **more):
    return event(seq, 'turn', role='assistant', state='begin', tokens=0, **more)


def end(seq, reason='stop', **more):
    return event(seq, 'turn', role='assistant', state='end', reason=reason, tokens=1, **more)


def text(seq, s, role='assistant', **more):
    return event(seq, 'text', role=role, text=s, tokens=1, **more)


# ---- what a client asks ----

def say_begin(peer, *more):
    p = peer.start('say', 'a', 'hello', *more)
    c = peer.accept()
    id, params = c.expect('session.say')
    equal(params['text'], 'hello')
    c.answer(id, {'request': 7, 'seq': 10})
    return p, c


def follow_begin(c, want_from):
    id, params = c.expect('session.follow')
    equal(params, {'session': 'a', 'from': want_from})
    c.answer(id, {'next': want_from})


def expect_followed(c, method):
    """Ctrl-C may come before the answer to a follow has been read: then the session is followed again."""
    while True:
        id, got, params = c.request()
        if got != 'session.follow':
            equal(got, method)
            return id, params
        c.answer(id, {'next': params['from']})


def told(*events):
    return [[2, 'session.event', [e]] for e in events]


def tell(c, *events):
    c.send(*told(*events))


LEFT = 'it will still be answered; sink cancel a stops it'


# ---- checks ----

def equal(got, want, what=''):
    assert got == want, f'{what}: got {got!r:.300}, want {want!r:.300}'


def main(tests):
    """Runs what is called test_*, or only what is asked for, and exits."""
    failed = 0
    for name, test in list(tests.items()):
        if not name.startswith('test_') or (sys.argv[1:] and name not in sys.argv[1:]):
            continue
        try:
            test()
            print('ok', name)
        except Exception as e:
            traceback.print_exc(file=sys.stdout)
            print('FAILED', name, e)
            failed += 1
    sys.exit(1 if failed else 0)
