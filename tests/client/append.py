"""`sink append` against a scripted peer: pieces of whole lines, keys, what is in flight, full queues."""
import os
import signal
import sys
import time

try:
    import msgpack  # noqa: F401
except ImportError:
    print('python3-msgpack is missing')
    sys.exit(77)
from peer import SECONDS, Peer, equal, main, until


def text_bytes(x):
    return x.encode() if isinstance(x, str) else x


def append_accept(peer, queued_bytes=1 << 26):
    """The client asks how much may wait before it appends."""
    c = peer.accept()
    limits_answer(c, queued_bytes)
    return c


def limits_answer(c, queued_bytes):
    id, _ = c.expect('server.info')
    c.answer(id, {'limits': {'queued_bytes': queued_bytes}})


def put(p, data):
    p.stdin.write(data)
    p.stdin.flush()


def no_more(p):
    """The input ends."""
    p.stdin.close()
    p.stdin = None


def take_appends(c, log):
    """Answers appends until the client leaves."""
    while True:
        r = c.request()
        if r is None:
            return
        id, method, params = r
        equal(method, 'session.append')
        log.append(params)
        c.answer(id, {'request': len(log)})


def test_append_pieces():
    """Whole lines, up to 64 KiB, all of it, with a key each; bin only where it is not UTF-8."""
    data = ''.join(f'line {i} é€\U0001f600\n' for i in range(20000)).encode() + b'x' * 200000 + 'é'.encode() * 50000
    log = []
    with Peer() as peer:
        p = peer.start('append', 'a', '--role', 'tool', input=data)
        take_appends(append_accept(peer), log)
        peer.finish(p, 0)
    equal(b''.join(text_bytes(x['text']) for x in log), data, 'all of it')
    assert all(len(text_bytes(x['text'])) <= 65536 and x['session'] == 'a' and x['role'] == 'tool' for x in log)
    assert all(isinstance(x['text'], str) for x in log), 'a character was cut'
    assert all(x['text'].endswith('\n') for x in log[:5])
    equal(len({x['key'] for x in log}), len(log), 'keys')
    assert len(log) < len(data) / 30000, f'{len(log)} pieces'


def test_append_silence():
    """What came is sent after a silence; a character cut by a read waits for its rest."""
    with Peer() as peer:
        p = peer.start('append', 'a')
        c = append_accept(peer)
        for part, want in ((b'caf\xc3', 'caf'), (b'\xa9 ', 'é '), (b'\xff\xe2\x82', b'\xff'), (b'\xac\n', '€\n')):
            put(p, part)
            id, params = c.expect('session.append')
            equal(params['text'], want)
            c.answer(id, {'request': 1})
            c.nothing()
        p.stdin.write(b'end\xf0\x9f')
        no_more(p)
        got = b''
        while got != b'end\xf0\x9f':
            id, params = c.expect('session.append')
            got += text_bytes(params['text'])
            c.answer(id, {'request': 1})
        peer.finish(p, 0)


def test_append_in_flight():
    """32 in flight, no more, and it waits for all of them.  The daemon's silence is not the input's: no line is cut."""
    line = b'0123456789 0123456789\n'
    with Peer() as peer:
        p = peer.start('append', 'a', input=line * (65536 // len(line) * 40))
        c, ids = append_accept(peer), []

        def another():
            id, params = c.expect('session.append')
            equal(params['text'][-len(line):].encode(), line)
            ids.append(id)
        for _ in range(32):
            another()
        c.nothing()
        c.answer(ids.pop(5), {'request': 1})   # the window is in order: the first one frees a place
        c.answer(ids.pop(0), {'request': 1})
        another()
        for n in range(40 - 33):
            c.answer(ids.pop(0), {'request': 1})
            another()
        for id in reversed(ids[1:]):
            c.answer(id, {'request': 1})
        time.sleep(0.2)
        equal(p.poll(), None, 'one is not acknowledged')
        c.answer(ids[0], {'request': 1})
        peer.finish(p, 0)


def test_append_again():
    """Cut before the answers: the same pieces with the same keys, in order, once answered no more."""
    with Peer() as peer:
        p = peer.start('append', 'a')
        c = append_accept(peer)
        first = []
        for i in range(4):
            put(p, b'line %d\n' % i)
            id, params = c.expect('session.append')
            first.append(params)
            if i == 1:
                c.answer(id, {'request': 1})
                time.sleep(0.1)
        c.cut()
        p.stdin.write(b'line 4\n')
        no_more(p)
        c, again = append_accept(peer), []
        take_appends(c, again)
        peer.finish(p, 0)
    equal(again[:3], [first[0], first[2], first[3]])
    equal(again[3]['text'], 'line 4\n')


def test_append_while_away():
    """Input that comes while the daemon is away was no silence: its line stays whole."""
    for _ in range(20):
        with Peer() as peer:
            p = peer.start('append', 'a')
            c = append_accept(peer)
            put(p, b'line\n')
            c.answer(c.expect('session.append')[0], {'request': 1})
            time.sleep(0.1)
            peer.leave()
            begin = time.monotonic()
            put(p, b'ha')
            time.sleep(0.01)
            c.cut()
            took = time.monotonic() - begin
            time.sleep(0.05)       # it looks for the daemon now
            p.stdin.write(b'lf\n')
            no_more(p)
            time.sleep(0.2)
            peer.bind()
            peer.listen()
            log = []
            take_appends(append_accept(peer), log)
            peer.finish(p, 0)
        if took < 0.04:            # else it was silent before it was away
            equal([x['text'] for x in log], ['half\n'])
            return
    raise AssertionError('this machine is never quick enough to ask')


def test_append_full_queue():
    """A full queue is waited for, one piece at a time, in order."""
    with Peer() as peer:
        p = peer.start('append', 'a')
        c = append_accept(peer)
        seen = []
        for i in range(3):
            put(p, b'line %d\n' % i)
            seen.append(c.expect('session.append'))
        for id, _ in seen:
            c.refuse(id, 'cap_queued: as many queued bytes as one user may have')
        no_more(p)
        for _, params in seen:
            id, got = c.expect('session.append')
            equal(got, params)
            c.nothing(0.15)
            c.answer(id, {'request': 1})
        equal(peer.finish(p, 0)[1], '')


def test_append_soon():
    """A daemon that is just starting again is waited for; one that is not there is not."""
    with Peer() as peer:
        peer.leave()
        peer.bind()
        p = peer.start('append', 'a', 'text')
        peer.finish(peer.start('info'), 3)
        time.sleep(0.3)
        equal(p.poll(), None)
        peer.listen()
        take_appends(append_accept(peer), [])
        peer.finish(p, 0)
        os.unlink(peer.path)
        peer.finish(peer.start('append', 'a', 'text'), 3)


def test_append_beyond_the_queue():
    """What may not fit into the queue goes one piece at a time."""
    with Peer() as peer:
        p = peer.start('append', 'a', input=b'0123456789abcde\n' * (4096 * 6))
        c = append_accept(peer, queued_bytes=4 * 65536)
        ids = [c.expect('session.append')[0] for _ in range(3)]        # two fit into half of it
        c.nothing()
        for id in ids[:2]:
            c.answer(id, {'request': 1})
        c.nothing()
        c.answer(ids[2], {'request': 1})
        for _ in range(3):
            id, _ = c.expect('session.append')
            c.nothing(0.1)
            c.answer(id, {'request': 1})
        peer.finish(p, 0)


def test_append_beyond_a_smaller_queue():
    """Nor what may not fit into the queue with which the daemon comes back."""
    with Peer() as peer:
        p = peer.start('append', 'a')
        c = append_accept(peer)
        put(p, b'line\n')
        c.answer(c.expect('session.append')[0], {'request': 1})
        time.sleep(0.1)
        c.cut()
        c = append_accept(peer, queued_bytes=32768)
        put(p, b'0123456789abcde\n' * 6144)    # three pieces, of which one may be more than half of the queue
        no_more(p)
        id, _ = c.expect('session.append')
        c.nothing()
        c.answer(id, {'request': 1})
        take_appends(c, [])
        peer.finish(p, 0)


def test_append_small_queue():
    """No piece is longer than the whole queue, also where its size is told only when the model has been loaded, or is
    another one after a restart; one that was on its way then is refused by name, and not for ever."""
    data, log = b'0123456789abcde\n' * 2048, []
    with Peer() as peer:
        p = peer.start('append', 'a', input=data)
        c = peer.accept()
        for _ in range(2):
            id, _ = c.expect('server.info')
            c.answer(id, {'state': 'loading', 'limits': {'message_max': 1 << 20}})
        limits_answer(c, 8192)
        take_appends(c, log)
        peer.finish(p, 0)
        equal(''.join(x['text'] for x in log).encode(), data, 'all of it')
        equal(max(len(x['text']) for x in log), 8192, 'the longest piece')

        p = peer.start('append', 'a', input=data)
        c = append_accept(peer)
        c.expect('session.append')
        c.cut()
        append_accept(peer, 8192)
        _, err = peer.finish(p, 1)
        assert err.startswith('sink: cap_queued: '), err


def shrunk(peer):
    """The daemon leaves while the client has read more than the queue takes with which it comes back.  False: it was sent
    before we could stop the client."""
    p = peer.start('append', 'a')
    c = append_accept(peer)
    put(p, b'x' * 20000)
    time.sleep(0.02)
    p.send_signal(signal.SIGSTOP)
    try:
        c.nothing(0.1)
    except AssertionError:
        return False
    put(p, b'y' * 30000)                       # so that both are there when it looks
    c.cut()
    p.send_signal(signal.SIGCONT)
    log = []
    c = append_accept(peer, 8192)
    no_more(p)
    take_appends(c, log)
    _, err = p.communicate(timeout=SECONDS)
    if b'was on its way' in err:
        return False
    equal((p.returncode, err), (0, b''))
    equal(b''.join(text_bytes(x['text']) for x in log), b'x' * 20000 + b'y' * 30000)
    assert max(len(x['text']) for x in log) <= 8192
    return True


def test_append_shrunk_queue():
    for _ in range(20):
        with Peer() as peer:
            if shrunk(peer):
                return


def test_append_json():
    """The answers, one a line, when they come."""
    with Peer() as peer:
        p = peer.start('--json', 'append', 'a')
        c = append_accept(peer)
        put(p, b'text\n')
        id, _ = c.expect('session.append')
        c.answer(id, {'request': 1, 'seq': 2})
        equal(until(p.stdout, b'\n'), b'{"request": 1, "seq": 2}\n')
        no_more(p)
        equal(peer.finish(p, 0), (b'', ''))


def test_append_refused():
    with Peer() as peer:
        p = peer.start('append', 'a', 'text')
        c = append_accept(peer)
        id, _ = c.expect('session.append')
        c.refuse(id, 'no_session: no session a')
        equal(peer.finish(p, 1)[1], 'sink: no_session: no session a\n')
        p = peer.start('append', 'a')
        c = append_accept(peer)
        no_more(p)
        id, _ = c.expect('session.info')       # nothing to send: is there such a session?
        c.refuse(id, 'no_session: no session a')
        peer.finish(p, 1)


main(globals())
