"""`sink attach` against a scripted peer, through a pipe and in a terminal: each function is one behaviour."""
import os
import signal
import subprocess
import sys
import time

try:
    import msgpack  # noqa: F401
except ImportError:
    print('python3-msgpack is missing')
    sys.exit(77)
from peer import (LEFT, SECONDS, SINK, Peer, begin, cancel_unanswered, end, equal, expect_followed, follow_begin, lost, main,
                  say_begin, stopped, tell, text, told, until)


def attached(c, *entries):
    """What attach asks at first has been answered: it follows."""
    n = len(entries)
    id, _ = c.expect('session.info')
    c.answer(id, {'session': 'a', 'raw': False, 'seq': n, 'state': 'idle'})
    if entries:
        id, _ = c.expect('session.read')
        c.answer(id, {'events': list(entries), 'next': n + 1, 'durable': n})
    follow_begin(c, n + 1)


def test_attach():
    """Recent transcript, live text, a line as a turn; lagged and a lost connection are made up for."""
    with Peer() as peer:
        p = peer.start('attach', 'a')
        c = peer.accept()
        id, _ = c.expect('session.info')
        c.answer(id, {'session': 'a', 'raw': False, 'seq': 2, 'state': 'idle'})
        id, params = c.expect('session.read')
        equal(params['from'], 1)
        c.answer(id, {'events': [text(1, 'hi\n', role='user', request=1)], 'next': 3, 'durable': 2})
        id, params = c.expect('session.read')
        c.answer(id, {'events': [], 'next': 3, 'durable': 2})
        id, params = c.expect('session.follow')
        at = params['from']
        c.answer(id, {'next': at})
        p.stdin.write(b'hello\n')
        p.stdin.close()
        p.stdin = None
        id, params = c.expect('session.say')
        equal(params['text'], 'hello')
        c.send([2, 'session.event', [text(3, 'hello', role='user')]])
        c.answer(id, {'request': 7, 'seq': 2})
        for e in (begin(4), text(5, 'one '), text(5, 'one ')):
            c.send([2, 'session.event', [e]])
        c.send([2, 'session.event', [{'session': 'a', 'seq': 0, 'kind': 'lagged', 'next': 6}]])
        id, params = c.expect('session.follow')
        equal(params['from'], 6)
        c.cut()
        c = peer.accept()
        id, params = c.expect('session.follow')
        equal(params['from'], 6)
        c.answer(id, {'next': 6})
        for e in (text(6, 'two'), end(7)):
            c.send([2, 'session.event', [e]])
        equal(peer.finish(p, 0)[0], b'user: hi\nhello\nassistant: one two\n')


def attach_begin(peer, state='idle'):
    """To a session without entries."""
    p = peer.start('attach', 'a')
    c = peer.accept()
    id, _ = c.expect('session.info')
    c.answer(id, {'session': 'a', 'raw': False, 'seq': 0, 'state': state})
    return p, c


def say_line(p, c, line, request):
    p.stdin.write(line + b'\n')
    p.stdin.flush()
    id, _ = c.expect('session.say')
    c.answer(id, {'request': request, 'seq': 0})


def test_attach_interrupted():
    """Through a pipe, Ctrl-C stops an answer to what was said here, no other; and it ends a line that is not taken."""
    with Peer() as peer:
        for mine in True, False:
            p, c = attach_begin(peer, 'generating')
            follow_begin(c, 1)
            say_line(p, c, b'hello', 7)
            tell(c, begin(1, request=7 if mine else 6), text(2, 'one', request=7 if mine else 6))
            until(p.stdout, b'one')
            p.send_signal(signal.SIGINT)
            if mine:
                id, _ = c.expect('session.cancel')
                c.answer(id, {'cancelled': True})
            _, err = peer.finish(p, 130)
            equal(c.request(), None)
            equal(LEFT in err, not mine, err)
        p, c = attach_begin(peer)
        follow_begin(c, 1)
        p.stdin.write(b'hello\n')
        p.stdin.flush()
        c.expect('session.say')
        p.send_signal(signal.SIGINT)
        _, err = peer.finish(p, 130)
        assert LEFT in err, err


LAGGED = {'session': 'a', 'seq': 0, 'kind': 'lagged', 'next': 3}


def test_attach_interrupted_first():
    """Through a pipe: Ctrl-C that is there when the daemon has to be asked, or comes while it is asked, stops the answer."""
    for asked in 'follow', 'say':
        with Peer() as peer:
            p, c = attach_begin(peer)
            follow_begin(c, 1)
            say_line(p, c, b'hello', 7)
            tell(c, begin(1), text(2, 'one'))
            until(p.stdout, b'one')
            if asked == 'follow':
                with stopped(p):
                    tell(c, LAGGED)
                    p.send_signal(signal.SIGINT)
            else:
                p.stdin.write(b'more\n')
                p.stdin.flush()
                c.expect('session.say')
                p.send_signal(signal.SIGINT)
            id, _ = c.expect('session.cancel')
            c.answer(id, {'cancelled': True})
            _, err = peer.finish(p, 130)
            equal(LEFT in err, asked == 'say', err)


def test_attach_interrupted_unread():
    """Through a pipe: nobody reads what is shown, and Ctrl-C stops the answer all the same."""
    with Peer() as peer:
        p, c = attach_begin(peer)
        follow_begin(c, 1)
        say_line(p, c, b'hello', 7)
        tell(c, begin(1), *(text(n, 'x' * 10000) for n in range(2, 22)))
        until(p.stdout, b'x')
        p.send_signal(signal.SIGINT)
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        equal(p.wait(timeout=SECONDS), 130)
        equal(p.stderr.read(), b'')


def test_attach_cancel_unanswered():
    """Through a pipe a cancel is waited for no longer than 5 s, and not even that after another Ctrl-C."""
    with Peer() as peer:
        for again in True, False:
            p, c = attach_begin(peer)
            follow_begin(c, 1)
            say_line(p, c, b'hello', 7)
            tell(c, begin(1), text(2, 'one'))
            until(p.stdout, b'one')
            cancel_unanswered(peer, p, c, again)


def test_attach_interrupted_while_sending():
    """A line that the daemon does not read is not sent; the answer that is ours is stopped over another connection."""
    with Peer() as peer:
        p, c = attach_begin(peer)
        follow_begin(c, 1)
        say_line(p, c, b'hello', 7)
        tell(c, begin(1), text(2, 'one'))
        until(p.stdout, b'one')
        p.stdin.write(b'x' * 1000000 + b'\n')
        p.stdin.flush()
        c.comes()                              # more of it than a socket takes will not
        p.send_signal(signal.SIGINT)
        c = peer.accept()
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        equal(peer.finish(p, 130), (b'\n', ''))


def test_attach_interrupted_while_away():
    """A line was on its way when the daemon left: Ctrl-C ends the wait for it, and it is said what may become of it."""
    with Peer() as peer:
        p, c = attach_begin(peer)
        follow_begin(c, 1)
        p.stdin.write(b'hello\n')
        p.stdin.flush()
        c.expect('session.say')
        peer.leave()
        c.cut()
        lost(p)
        p.send_signal(signal.SIGINT)
        _, err = peer.finish(p, 130)
        assert LEFT in err, err


def test_attach_no_input():
    with Peer() as peer:
        fd = os.open('/', os.O_RDONLY)
        p = subprocess.Popen([SINK, '-S', peer.path, 'attach', 'a'], stdin=fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        peer.processes.append(p)
        os.close(fd)
        c = peer.accept()
        id, _ = c.expect('session.info')
        c.answer(id, {'session': 'a', 'raw': False, 'seq': 0, 'state': 'idle'})
        follow_begin(c, 1)
        _, err = peer.finish(p, 1)
        assert err.startswith('sink: standard input: '), err


class Terminal:
    """A process with a terminal of its own."""
    def __init__(self, peer, *args, locale='C.UTF-8', shell=()):
        import fcntl
        import pty
        import termios
        self.fd, slave = pty.openpty()
        self.p = subprocess.Popen([*shell, SINK, '-S', peer.path, *args], stdin=slave, stdout=slave, stderr=slave,
                                  start_new_session=True, env={**os.environ, 'TERM': 'xterm', 'LC_ALL': locale},
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        peer.processes.append(self.p)
        os.close(slave)
        self.seen = ''

    def resize(self, columns):
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))

    def type(self, s):
        os.write(self.fd, s.encode())

    def rest(self):
        """What was written until the end, of a process that has ended."""
        try:
            while data := os.read(self.fd, 4096):
                self.seen += data.decode()
        except OSError:                        # how a terminal says that nobody has it open
            pass
        return self.seen

    def until(self, want):
        """What was written until `want` came, that included."""
        import select
        end = time.monotonic() + SECONDS
        while want not in self.seen:
            assert select.select([self.fd], [], [], max(0, end - time.monotonic()))[0], f'no {want!r} in {self.seen!r}'
            try:
                data = os.read(self.fd, 4096)
            except OSError:                    # how a terminal says that nobody has it open
                data = b''
            assert data, f'no {want!r} in {self.seen!r}'
            self.seen += data.decode()
        out, self.seen = self.seen[:self.seen.index(want) + len(want)], self.seen[self.seen.index(want) + len(want):]
        return out


def test_renamed():
    """Events bring the session's new name, and it is used from there on; a cancel that is refused is said."""
    new = {'session': 'b'}
    with Peer() as peer:
        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, {**begin(11), **new}, {**text(12, 'one'), **new}, {**new, 'seq': 0, 'kind': 'lagged', 'next': 13})
        id, params = c.expect('session.follow')
        equal(params, {'session': 'b', 'from': 13})
        c.answer(id, {'next': 13})
        p.send_signal(signal.SIGINT)
        id, params = expect_followed(c, 'session.cancel')
        equal(params, new)
        c.refuse(id, 'no_session: no session b')
        equal(peer.finish(p, 130), (b'one\n', 'sink: no_session: no session b\n'))

        p = peer.start('attach', 'a')
        c = peer.accept()
        attached(c, text(1, 'hi', role='user', request=1))
        tell(c, {**text(2, 'of others', request=2), **new})
        until(p.stdout, b'others')
        p.stdin.write(b'hello\n')
        p.stdin.flush()
        id, params = c.expect('session.say')
        equal(params['session'], 'b')
        c.cut()
        c = peer.accept()
        id, params = c.expect('session.say')
        equal(params['session'], 'b')
        c.answer(id, {'request': 7, 'seq': 2})
        id, params = c.expect('session.follow')
        equal(params, {'session': 'b', 'from': 3})
        c.answer(id, {'next': 3})
        tell(c, {**begin(3), **new}, {**end(4), **new})
        p.stdin.close()
        p.stdin = None
        peer.finish(p, 0)


def terminal_begin(peer):
    t = Terminal(peer, 'attach', 'a')
    c = peer.accept()
    attached(c)
    t.until('> ')
    return t, c


def test_attach_terminal():
    """A prompt, live text while a line is typed, Ctrl-C for the answer and for the line, Ctrl-D to leave."""
    with Peer() as peer:
        t = Terminal(peer, 'attach', 'a')
        c = peer.accept()
        attached(c, text(1, 'hi', role='user', request=1))
        t.until('user: hi')
        t.until('> ')
        t.type('héllo\r')
        id, params = c.expect('session.say')
        equal(params['text'], 'héllo')
        c.answer(id, {'request': 7, 'seq': 1})
        for e in (text(2, 'héllo', role='user'), begin(3), text(4, 'one €')):
            c.send([2, 'session.event', [e]])
        shown = t.until('one €')
        equal(shown.count('user'), 0, 'what was typed is not shown again')
        t.type('x')                            # from now on whole lines come above the prompt
        t.until('> x')
        c.send([2, 'session.event', [text(5, ' two\nthree')]])
        assert 'three' not in t.until('two')
        t.until('> x')
        t.type('\x03')                         # Ctrl-C: the answer
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        c.send([2, 'session.event', [end(6, 'cancelled')]])
        t.until('three')
        t.until('> x')
        t.type('\x03')                         # again: the line
        t.until('> ')
        t.type('\x04')                         # Ctrl-D: on an empty line it detaches
        equal(t.p.wait(timeout=SECONDS), 0)
        equal(c.request(), None)
        os.close(t.fd)


def test_attach_terminal_interrupted_first():
    """Ctrl-C that is there when the daemon has to be asked, or comes while it is asked, stops the answer; a line whose end
    comes with it is not sent."""
    with Peer() as peer:
        t, c = terminal_begin(peer)
        t.type('hello\r')
        id, _ = c.expect('session.say')
        c.send([1, id, None, {'request': 7, 'seq': 0}], *told(begin(1), text(2, 'one')))
        t.until('one')
        with stopped(t.p):
            tell(c, LAGGED)
            t.p.send_signal(signal.SIGINT)
        id, _ = expect_followed(c, 'session.cancel')
        c.answer(id, {'cancelled': True})
        follow_begin(c, 3)
        tell(c, LAGGED)
        c.expect('session.follow')
        t.p.send_signal(signal.SIGINT)
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        follow_begin(c, 3)
        tell(c, end(3, 'cancelled'))
        t.until('> ')
        t.type('more')
        t.until('more')
        with stopped(t.p):
            t.type('\r')
            t.p.send_signal(signal.SIGINT)
        t.until('> ')
        c.nothing()
        t.type('\x04')
        equal(t.p.wait(timeout=SECONDS), 0)
        equal(c.request(), None)
        os.close(t.fd)


def test_attach_terminal_wrapped():
    """A line of several rows is taken off the screen whole before text comes above it, also once the screen has changed."""
    with Peer() as peer:
        t = Terminal(peer, 'attach', 'a')
        t.resize(40)
        c = peer.accept()
        attached(c)
        t.until('> ')
        t.type('x' * 50 + '日本語日本')            # of 62 columns, with the prompt: 40, 22
        t.until('語日本')
        tell(c, text(1, 'one\n'))
        t.until('\r\x1b[1A\x1b[Jassistant: one')
        t.until('語日本')
        t.resize(21)                           # 21, 21, 20
        t.until('語日本')
        tell(c, text(2, 'two\n'))
        t.until('\r\x1b[2A\x1b[Jtwo')
        t.until('語日本')
        t.type('\x03')
        t.until('\r\x1b[2A\x1b[J')
        t.p.kill()
        os.close(t.fd)


def test_attach_terminal_stopped():
    """Ctrl-Z gives the terminal back as it was, and takes it again; so does a continuation of who was stopped otherwise."""
    import termios
    shell = ['sh', '-mc', '"$0" "$@"; stty -a; read x; stty echo icanon; fg']
    with Peer() as peer:
        t = Terminal(peer, 'attach', 'a', shell=shell)
        c = peer.accept()
        attached(c)
        t.until('> ')
        t.type('abc')
        t.until('abc')
        t.type('\x1a')
        modes = t.until('echok')
        assert 'icanon' in modes and '-icanon' not in modes and '-echo ' not in modes, modes
        t.type('\n')
        t.until('> ')
        t.until('abc')
        t.type('de')
        t.until('de')
        equal(termios.tcgetattr(t.fd)[3] & (termios.ICANON | termios.ECHO), 0)
        t.type('\r')
        _, params = c.expect('session.say')
        equal(params['text'], 'abcde')
        t.p.kill()
        os.close(t.fd)

        t, c = terminal_begin(peer)
        t.type('abc')
        t.until('abc')
        with stopped(t.p):
            modes = termios.tcgetattr(t.fd)
            modes[3] |= termios.ICANON | termios.ECHO
            termios.tcsetattr(t.fd, termios.TCSANOW, modes)
        t.until('> ')
        t.until('abc')
        equal(termios.tcgetattr(t.fd)[3] & (termios.ICANON | termios.ECHO), 0)
        t.p.kill()
        os.close(t.fd)


def test_attach_terminal_leave():
    """Ctrl-C while a line is being taken leaves, and says whether it may be answered."""
    for loading in False, True:
        with Peer() as peer:
            t, c = terminal_begin(peer)
            t.type('hello\r')
            id, _ = c.expect('session.say')
            if loading:
                c.refuse(id, 'loading: the model is still loading')
                t.until('loading')
            t.type('\x03')
            while loading and (r := c.request()):
                c.refuse(r[0], 'loading: the model is still loading')
            equal(t.p.wait(timeout=SECONDS), 130)
            equal(LEFT in t.rest(), not loading)
            os.close(t.fd)


def test_attach_terminal_locale():
    """What is typed arrives as it is, in whatever locale."""
    for locale in 'C', 'POSIX', 'no_such_one':
        with Peer() as peer:
            t = Terminal(peer, 'attach', 'a', locale=locale)
            c = peer.accept()
            attached(c)
            t.until('> ')
            t.type('hé €😀\r')
            _, params = c.expect('session.say')
            equal(params['text'], 'hé €😀', locale)
            t.p.kill()
            os.close(t.fd)


main(globals())
