"""The client against a scripted peer: each function is one behaviour."""
import json
import os
import re
import signal
import subprocess
import sys
import time

try:
    import msgpack
except ImportError:
    print('python3-msgpack is missing')
    sys.exit(77)
from peer import SECONDS, SINK, Peer, equal, main, until


def event(seq, kind, request=7, **more):
    return {'session': 'a', 'seq': seq, 'time': 0, 'kind': kind, 'position': 0, 'request': request,
            'window_start': 4, 'forgotten': 0, **more}


def begin(seq, **more):
    return event(seq, 'turn', role='assistant', state='begin', tokens=0, **more)


def end(seq, reason='stop', **more):
    return event(seq, 'turn', role='assistant', state='end', reason=reason, tokens=1, **more)


def text(seq, s, role='assistant', **more):
    return event(seq, 'text', role=role, text=s, tokens=1, **more)


# ---- exit codes ----

def test_no_daemon():
    for env in ({'SINKD_SOCKET': '/nonexistent/sock'}, {'XDG_RUNTIME_DIR': '/nonexistent', 'SINKD_SOCKET': '/nonexistent/s'}):
        p = subprocess.run([SINK, 'ls'], env={**os.environ, **env}, stderr=subprocess.PIPE)
        equal(p.returncode, 3)
        assert b'no daemon at /nonexistent' in p.stderr, p.stderr


def test_usage():
    wrong = (['nonsense'], [], ['new'], ['new', 'a', 'b'], ['new', 'a', '--nonsense'], ['new', 'a', '--sinks'],
             ['new', 'a', '--pin'], ['new', 'a', '--sinks', 'x'], ['new', 'a', '--sinks', '-1'], ['new', 'a', '--temperature', 'warm'],
             ['set', 'a', 'colour=red'], ['set', 'a', 'seed=x'], ['set', 'a', 'seed'], ['read', 'a', '--from', 'x'],
             ['help', 'nonsense'], ['--json'], ['--json', 'attach', 'a'])
    with Peer() as peer:
        for args in wrong:
            out, err = peer.finish(peer.start(*args), 2)
            equal(out, b'')
            assert 'usage' in err, err
        for verb in ('fork', 'rewind', 'export', 'import'):
            _, err = peer.finish(peer.start(verb, 'a', 'b'), 1)
            assert err.startswith('sink: not_finished: '), err
        for args in (['--help'], ['help', 'say'], ['say', '--help'], ['--version']):
            out, _ = peer.finish(peer.start(*args), 0)
            assert b'sink' in out, out


def test_refused():
    with Peer() as peer:
        for error in ('no_session: no session a', {'code': 10, 'name': 'no_session', 'message': 'no session a'}):
            p = peer.start('info', 'a')
            c = peer.accept()
            id, params = c.expect('session.info')
            equal(params, {'session': 'a'})
            c.refuse(id, error)
            equal(peer.finish(p, 1), (b'', 'sink: no_session: no session a\n'))


def test_nonsense():
    """What no daemon sends ends in exit 1, 3, never in a crash or a wait."""
    for data in (b'HTTP/1.1 400\r\n\r\n', b'\xc1', b'\xdd\xff\xff\xff\xff', b'\x91' * 20, msgpack.packb([0, 1, 'x', [{}]]),
                 msgpack.packb([1, 1, None]), msgpack.packb([1, 1, 5, None]), msgpack.packb([1, 1, '', None]),
                 msgpack.packb([1, 1, 'x' * 5000, None]), msgpack.packb([1, 1, {'name': 1}, None]), b''):
        with Peer() as peer:
            p = peer.start('info')
            c = peer.accept()
            c.expect('server.info')
            c.s.sendall(data)
            c.cut()
            out, err = p.communicate(timeout=SECONDS)
            assert p.returncode in (1, 3) and err.startswith(b'sink: '), (data, p.returncode, err)
    with Peer() as peer:
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        c.expect('session.say')
        c.s.sendall(b'HTTP/1.1 400\r\n\r\n')
        _, err = peer.finish(p, 1)
        equal(err.count('\n'), 1, err)


def test_answers_are_matched():
    """Byte by byte, behind other answers and notifications."""
    with Peer() as peer:
        p = peer.start('--json', 'info')
        c = peer.accept()
        id, _ = c.expect('server.info')
        c.send([2, 'session.event', [event(1, 'text', text='x')]])
        c.answer(id + 100, {'wrong': 1})
        for b in msgpack.packb([1, id, None, {'right': [1, -1, 2.5, None, True, 'é"\n\x01', b'\xff\x00', {}]}]):
            c.s.sendall(bytes([b]))
            time.sleep(0.001)
        out, _ = peer.finish(p, 0)
        equal(json.loads(out), {'right': [1, -1, 2.5, None, True, 'é"\n\x01', {'bin': '/wA='}, {}]})


# ---- requests as they are sent ----

def request_of(*args, input=b''):
    with Peer() as peer:
        p = peer.start(*args, input=input)
        c = peer.accept()
        id, method, params = c.request()
        c.refuse(id, 'internal: enough')
        peer.finish(p, 1)
        return method, params


def test_parameters():
    equal(request_of('new', 'a', '--sinks', '8', '--window=100', '--raw', '--pin', '--system', 'be', '--stop', 'x',
                     '--stop', 'y', '--temperature', '0', '--top-k', '3', '--seed', '18446744073709551615', '-n5'),
          ('session.create', {'session': 'a', 'sinks': 8, 'window': 100, 'raw': True, 'pin': True, 'system': 'be',
                              'stop': ['x', 'y'], 'temperature': 0.0, 'top_k': 3, 'seed': 2 ** 64 - 1, 'max_tokens': 5}))
    equal(request_of('set', 'a', 'top-p=0.5', 'stop=', 'max_tokens=9', 'model=current'),
          ('session.set', {'session': 'a', 'top_p': 0.5, 'max_tokens': 9, 'model': 'current', 'stop': []}))
    equal(request_of('set', 'a', 'stop=x', 'stop=y=z'), ('session.set', {'session': 'a', 'stop': ['x', 'y=z']}))
    equal(request_of('rename', 'a', 'b'), ('session.rename', {'session': 'a', 'new_name': 'b'}))
    equal(request_of('cancel', 'u:a'), ('session.cancel', {'session': 'u:a'}))
    equal(request_of('score', '--per-token', '--exact', '--window', '64', '--sinks', '0', input=b'some text\xff'),
          ('score', {'per_token': True, 'exact': True, 'window': 64, 'sinks': 0, 'text': b'some text\xff'}))
    method, params = request_of('generate', 'a', '-n', '3', '--until-disconnect')
    key = params.pop('key')
    equal((method, params), ('session.generate', {'session': 'a', 'max_tokens': 3, 'until_disconnect': True}))
    assert isinstance(key, bytes) and 8 <= len(key) <= 64, key


def test_text_sources():
    def text_of(*args, input=b''):
        return request_of('say', 'a', *args, input=input)[1]['text']
    equal(text_of('one', 'two'), 'one two')
    equal(text_of(input=b'from\nstdin\n'), 'from\nstdin\n')
    equal(text_of('review this', '-', input=b'diff\n'), 'review this\ndiff\n')
    equal(text_of('-', 'after', input=b'diff'), 'diff\nafter')
    equal(text_of('--', '-x', '--y'), '-x --y')
    equal(text_of(input=b'\xed\xa0\x80'), b'\xed\xa0\x80', 'a surrogate is not UTF-8')
    equal(text_of(input='\U0010ffff\0é'.encode()), '\U0010ffff\0é')


def test_nothing_to_say():
    """An empty text, as of a pipe whose other end failed, becomes no turn."""
    with Peer() as peer:
        for args in ((), ('',), ('-',)):
            p = peer.start('say', 'a', *args, input=b'')
            c = peer.accept()
            equal(peer.finish(p, 2), (b'', 'sink: usage: there is nothing to say; sink generate a goes on without a turn\n'))
            equal(c.request(), None)


def test_too_large():
    """As much as the manual says, and not one byte more."""
    with open(os.path.join(os.environ.get('SRCDIR', '.'), 'client/sink.1'), encoding='utf-8') as f:
        most = int(re.search(r'At most ([0-9,]+) bytes of text', f.read()).group(1).replace(',', ''))
    equal(len(request_of('score', input=b'x' * most)[1]['text']), most)
    for verb in (['score'], ['say', 'a']):
        with Peer() as peer:
            p = peer.start(*verb)
            _, err = peer.finish(p, 1, b'x' * (most + 1))
            assert err.startswith('sink: too_large: '), err


def test_ls():
    """Another's session is called as the daemon takes it: by the owner's name, or the number where nobody has it."""
    with Peer() as peer:
        p = peer.start('ls')
        c = peer.accept()
        id, _ = c.expect('session.list')
        row = {'state': 'idle', 'position': 1, 'sinks': 4, 'window': 60, 'queued': 0, 'used': 0}
        c.answer(id, {'sessions': [{'session': s, 'owner': uid, **row}
                                   for s, uid in (('mine', os.getuid()), ('b', 4111222333), ('u:c', 4111222333))]})
        out = peer.finish(p, 0)[0].decode().splitlines()
        equal([x.split()[0] for x in out], ['NAME', 'mine', '4111222333:b', 'u:c'])


# ---- say ----

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


def test_say():
    """Only the answer of the request is printed, as it comes."""
    with Peer() as peer:
        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, text(11, 'of others', request=6), text(12, 'hello', role='user'), begin(13), text(14, 'Héllo'))
        equal(until(p.stdout, 'Héllo'.encode()), 'Héllo'.encode(), 'printed at once')
        c.nothing(0.1)                         # a token asks for no request
        tell(c, {'session': 'a', 'seq': 0, 'kind': 'evicted', 'position': 14, 'window_start': 5, 'forgotten': 1})
        tell(c, text(15, ' you'), end(16), text(17, 'more', request=8))
        equal(peer.finish(p, 0), (b' you\n', ''))


def test_say_lagged():
    """Behind: on from the cursor.  Deleted: said."""
    with Peer() as peer:
        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, begin(11), text(12, 'one '), {'session': 'a', 'seq': 0, 'kind': 'lagged', 'next': 13})
        follow_begin(c, 13)
        tell(c, text(12, 'one '), text(13, 'two'), {'session': 'a', 'seq': 0, 'kind': 'state', 'state': 'deleted'})
        equal(peer.finish(p, 1), (b'one two\n', 'sink: no_session: the session was deleted\n'))
        p, c = say_begin(peer)
        id, _ = c.expect('session.follow')
        c.refuse(id, 'no_session: no session a')
        equal(peer.finish(p, 1), (b'', 'sink: no_session: no session a\n'))


def test_say_new_session():
    with Peer() as peer:
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        id, first = c.expect('session.say')
        c.refuse(id, 'no_session: no session a')
        id, params = c.expect('session.create')
        equal(params, {'session': 'a'})
        c.answer(id, {'session': 'a'})
        id, again = c.expect('session.say')
        equal(again, first)
        c.answer(id, {'request': 7, 'seq': 0})
        follow_begin(c, 1)
        tell(c, begin(2), text(3, 'hi\n'), end(4))
        equal(peer.finish(p, 0), (b'hi\n', 'sink: made session a\n'))
        p = peer.start('say', 'u:a', 'hello')  # another user's is not ours to make
        c = peer.accept()
        id, _ = c.expect('session.say')
        c.refuse(id, 'no_session: no session u:a')
        peer.finish(p, 1)


def test_say_again():
    """Cut before the answer: the same key.  Cut while streaming: on from the cursor, nothing twice."""
    with Peer() as peer:
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        _, first = c.expect('session.say')
        c.cut()
        c = peer.accept()
        id, again = c.expect('session.say')
        equal(again, first)
        c.answer(id, {'request': 7, 'seq': 10})
        follow_begin(c, 11)
        tell(c, begin(11), text(12, 'one '))
        c.cut()
        c = peer.accept()
        id, _ = c.expect('session.follow')
        c.refuse(id, 'loading: the model is still loading')
        follow_begin(c, 13)
        tell(c, text(13, 'two'), end(14))
        equal(peer.finish(p, 0)[0], b'one two\n')


def test_say_error():
    for reason, code, words in (('error', 1, 'sink: internal: '), ('length', 0, ''), ('cancelled', 0, 'sink: cancelled')):
        with Peer() as peer:
            p, c = say_begin(peer)
            follow_begin(c, 11)
            tell(c, begin(11), text(12, 'part'), end(13, reason))
            out, err = peer.finish(p, code)
            equal(out, b'part\n')
            assert err.startswith(words), err


def test_say_interrupted():
    """Ctrl-C cancels the answer, prints what there is of it and exits 130."""
    with Peer() as peer:
        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, begin(11), text(12, 'one'))
        equal(until(p.stdout, b'one'), b'one')
        p.send_signal(signal.SIGINT)
        id, params = c.expect('session.cancel')
        equal(params, {'session': 'a'})
        tell(c, text(13, ' two'))
        c.answer(id, {'cancelled': True})
        tell(c, end(14, 'cancelled'))
        equal(peer.finish(p, 130)[0], b' two\n')


def test_say_interrupted_in_queue():
    """It has not begun: what runs is somebody else's, and is not cancelled, unless there is nothing else."""
    with Peer() as peer:
        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, begin(11, request=6))
        time.sleep(0.2)
        p.send_signal(signal.SIGINT)
        id, _ = c.expect('session.info')
        c.answer(id, {'session': 'a', 'queued': 2})
        _, err = peer.finish(p, 130)
        assert 'waits behind other requests' in err, err
        equal(c.request(), None)
        p, c = say_begin(peer)
        follow_begin(c, 11)
        p.send_signal(signal.SIGINT)
        id, _ = expect_followed(c, 'session.info')
        c.answer(id, {'session': 'a', 'queued': 1})
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        tell(c, begin(11), end(12, 'cancelled'))
        equal(peer.finish(p, 130), (b'', ''))


def test_say_interrupted_before():
    """Before it has been accepted: it is stopped when it is; Ctrl-C again leaves, and it is said what becomes of it."""
    for verb in 'say', 'generate':
        with Peer() as peer:
            p = peer.start(verb, 'a', *(['hello'] if verb == 'say' else []))
            c = peer.accept()
            id, first = c.expect('session.' + verb)
            p.send_signal(signal.SIGINT)
            equal(until(p.stderr, b'sink: it is stopped w'), b'sink: it is stopped w')
            c.cut()
            c = peer.accept()
            id, again = c.expect('session.' + verb)
            equal(again, first)
            c.answer(id, {'request': 7, 'seq': 10})
            id, _ = c.expect('session.follow')
            c.send([1, id, None, {'next': 11}], *told(begin(11), text(12, 'one')))
            id, _ = c.expect('session.cancel')
            c.answer(id, {'cancelled': True})
            tell(c, end(13, 'cancelled'))
            equal(peer.finish(p, 130)[0], b'one\n')

            p = peer.start(verb, 'a', *(['hello'] if verb == 'say' else []))
            c = peer.accept()
            c.expect('session.' + verb)
            for n in range(2):
                p.send_signal(signal.SIGINT)
                if n == 0:
                    equal(until(p.stderr, b'sink: it is stopped w'), b'sink: it is stopped w')
            _, err = peer.finish(p, 130)
            assert LEFT in err, err
            equal(c.request(), None)


def test_say_interrupted_again():
    """Whatever is not answered, Ctrl-C again ends it, and so does time; it is said what becomes of the answer."""
    with Peer() as peer:
        for again in True, False:
            p, c = say_begin(peer)
            follow_begin(c, 11)
            tell(c, begin(11), text(12, 'one'))
            equal(until(p.stdout, b'one'), b'one')
            p.send_signal(signal.SIGINT)
            c.expect('session.cancel')
            t = time.monotonic()
            if again:
                p.send_signal(signal.SIGINT)
            _, err = peer.finish(p, 130)
            assert LEFT in err, err
            assert again or time.monotonic() - t > 4, 'an end before its time'

        # Nobody has accepted it, or it ends with us.
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        id, _ = c.expect('session.say')
        c.refuse(id, 'no_session: no session a')
        c.expect('session.create')
        p.send_signal(signal.SIGINT)
        equal(peer.finish(p, 130), (b'', ''))
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        for n in range(1000):
            got = c.request()
            if not got:
                break
            c.refuse(got[0], 'loading: the model is still loading')
            if n == 0:
                p.send_signal(signal.SIGINT)
        _, err = peer.finish(p, 130)
        assert LEFT not in err, err
        p = peer.start('say', 'a', 'hello', '--until-disconnect')
        c = peer.accept()
        c.expect('session.say')
        p.send_signal(signal.SIGINT)
        equal(until(p.stderr, b'sink: it is stopped w'), b'sink: it is stopped w')
        p.send_signal(signal.SIGINT)
        _, err = peer.finish(p, 130)
        assert LEFT not in err, err


def test_say_interrupted_late():
    """Whether it has begun is known once the session is followed, and may change while the daemon is asked."""
    with Peer() as peer:
        p, c = say_begin(peer)
        c.expect('session.follow')
        p.send_signal(signal.SIGINT)
        id, _ = c.expect('session.follow')
        time.sleep(0.4)
        c.send([1, id, None, {'next': 11}], *told(begin(11)))
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        tell(c, end(12, 'cancelled'))
        peer.finish(p, 130)
        p, c = say_begin(peer)
        follow_begin(c, 11)
        p.send_signal(signal.SIGINT)
        id, _ = expect_followed(c, 'session.info')
        c.send(*told(begin(11)), [1, id, None, {'session': 'a', 'queued': 2}])
        id, _ = c.expect('session.cancel')
        c.answer(id, {'cancelled': True})
        tell(c, end(12, 'cancelled'))
        peer.finish(p, 130)


def test_interrupted_early():
    with Peer() as peer:
        p = peer.start('info')
        c = peer.accept()
        c.expect('server.info')
        p.send_signal(signal.SIGINT)
        peer.finish(p, 130)


# ---- read, attach ----

def test_read():
    with Peer() as peer:
        for raw, want in ((False, b'user: hi\nassistant: yo\nuser: again\n'), (True, b'hiyo\xffagain')):
            p = peer.start('read', 'a', '--from', '3')
            c = peer.accept()
            id, _ = c.expect('session.info')
            c.answer(id, {'session': 'a', 'raw': raw, 'seq': 9})
            more = {'bytes': b'yo\xff'} if raw else {}
            events = [text(3, 'hi', role='user'), begin(4), text(5, 'yo', **more), end(6), text(7, 'again', role='user')]
            id, params = c.expect('session.read')
            equal(params, {'session': 'a', 'from': 3})
            c.answer(id, {'events': events, 'next': 8, 'durable': 7})
            id, params = c.expect('session.read')
            c.answer(id, {'events': [], 'next': 8, 'durable': 7})
            equal(peer.finish(p, 0)[0], want)


def test_read_follow():
    """What has come is shown before the daemon is waited for."""
    for gone in True, False:
        with Peer() as peer:
            p = peer.start('read', 'a', '-f')
            c = peer.accept()
            id, _ = c.expect('session.info')
            c.answer(id, {'session': 'a', 'raw': False, 'seq': 0})
            id, _ = c.expect('session.follow')
            c.send([1, id, None, {'next': 1}], *told(text(1, 'hi', role='user')),
                   *([] if gone else told({'session': 'a', 'seq': 0, 'kind': 'lagged', 'next': 2})))
            if gone:
                c.cut()
            equal(until(p.stdout, b'hi'), b'user: hi')


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
    def __init__(self, peer, *args, locale='C.UTF-8'):
        import fcntl
        import pty
        import termios
        self.fd, slave = pty.openpty()
        self.p = subprocess.Popen([SINK, '-S', peer.path, *args], stdin=slave, stdout=slave, stderr=slave,
                                  start_new_session=True, env={**os.environ, 'TERM': 'xterm', 'LC_ALL': locale},
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        peer.processes.append(self.p)
        os.close(slave)
        self.seen = ''

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
        id, _ = c.expect('session.info')
        c.answer(id, {'session': 'a', 'raw': False, 'seq': 1, 'state': 'idle'})
        id, _ = c.expect('session.read')
        c.answer(id, {'events': [text(1, 'hi', role='user', request=1)], 'next': 2, 'durable': 1})
        id, _ = c.expect('session.follow')
        c.answer(id, {'next': 2})
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


def test_attach_terminal():
    """A prompt, live text while a line is typed, Ctrl-C for the answer and for the line, Ctrl-D to leave."""
    with Peer() as peer:
        t = Terminal(peer, 'attach', 'a')
        c = peer.accept()
        id, _ = c.expect('session.info')
        c.answer(id, {'session': 'a', 'raw': False, 'seq': 1, 'state': 'idle'})
        id, _ = c.expect('session.read')
        c.answer(id, {'events': [text(1, 'hi', role='user', request=1)], 'next': 2, 'durable': 1})
        id, params = c.expect('session.follow')
        c.answer(id, {'next': params['from']})
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


def test_attach_terminal_leave():
    """Ctrl-C while a line is being taken leaves, and says whether it may be answered."""
    for loading in False, True:
        with Peer() as peer:
            t = Terminal(peer, 'attach', 'a')
            c = peer.accept()
            id, _ = c.expect('session.info')
            c.answer(id, {'session': 'a', 'raw': False, 'seq': 0, 'state': 'idle'})
            follow_begin(c, 1)
            t.until('> ')
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
            id, _ = c.expect('session.info')
            c.answer(id, {'session': 'a', 'raw': False, 'seq': 0, 'state': 'idle'})
            id, params = c.expect('session.follow')
            c.answer(id, {'next': params['from']})
            t.until('> ')
            t.type('hé €😀\r')
            _, params = c.expect('session.say')
            equal(params['text'], 'hé €😀', locale)
            t.p.kill()
            os.close(t.fd)


main(globals())
