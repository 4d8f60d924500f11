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
from peer import SECONDS, SINK, Peer, begin, end, equal, event, main, text, told, until


# ---- exit codes ----

def test_no_daemon():
    for env in ({'SINKD_SOCKET': '/nonexistent/sock'}, {'XDG_RUNTIME_DIR': '/nonexistent', 'SINKD_SOCKET': '/nonexistent/s'}):
        p = subprocess.run([SINK, 'ls'], env={**os.environ, **env}, stderr=subprocess.PIPE)
        equal(p.returncode, 3)
        assert b'no daemon at /nonexistent' in p.stderr, p.stderr


def test_usage():
    wrong = (['nonsense'], [], ['new'], ['new', 'a', 'b'], ['new', 'a', '--nonsense'], ['new', 'a', '--sinks'],
             ['new', 'a', '--pin'], ['new', 'a', '--sinks', 'x'], ['new', 'a', '--sinks', '-1'], ['new', 'a', '--temperature', 'warm'],
             ['set', 'a', 'colour=red'], ['set', 'a', 'seed=x'], ['set', 'a', 'seed'], ['read', 'a', '--from', 'x'], ['read', 'a', '--from', str(2 ** 64)],
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


def test_usage_names():
    """A value that is none is named as it was given."""
    for args, want in ((['say', 'a', '-n', 'x', 'hello'], '-n is a whole number, not negative: not x'),
                       (['new', 'a', '--top-p=x'], '--top-p is a number: not x'),
                       (['set', 'a', 'top-k=x'], 'top_k is a whole number, not negative: not x')):
        with Peer() as peer:
            equal(peer.finish(peer.start(*args), 2)[1], f'sink: usage: {want}\n')


def test_no_output():
    """A standard output that is not there is one that cannot be written; who has nothing to print needs none."""
    for verb, code in ('ls', 1), ('cancel a', 0):
        with Peer() as peer:
            p = subprocess.Popen(['sh', '-c', f'"$0" -S "$1" {verb} >&-', SINK, peer.path], stderr=subprocess.PIPE)
            peer.processes.append(p)
            c = peer.accept()
            id, *_ = c.request()
            c.answer(id, {'sessions': [{'session': 'mine', 'owner': os.getuid()}]} if verb == 'ls' else {})
            _, err = peer.finish(p, code)
            equal(err, 'sink: standard output: Bad file descriptor\n' if code else '')


def test_input_that_does_not_block():
    """Who shares our standard input may have made it so."""
    with Peer() as peer:
        r, w = os.pipe()
        os.set_blocking(r, False)
        p = subprocess.Popen([SINK, '-S', peer.path, 'say', 'a'], stdin=r, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        peer.processes.append(p)
        c = peer.accept()
        for part in b'hel', b'lo':
            time.sleep(0.1)
            os.write(w, part)
        os.close(w)
        os.close(r)
        id, params = c.expect('session.say')
        equal(params['text'], 'hello')
        c.refuse(id, 'internal: enough')
        peer.finish(p, 1)


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


def test_interrupted_early():
    with Peer() as peer:
        p = peer.start('info')
        c = peer.accept()
        c.expect('server.info')
        p.send_signal(signal.SIGINT)
        peer.finish(p, 130)


# ---- read ----

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


main(globals())
