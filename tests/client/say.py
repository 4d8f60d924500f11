"""`sink say` and `sink generate` against a scripted peer: the answer as it comes, lost connections, Ctrl-C at every moment."""
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
                  say_begin, tell, text, told, until)


def interrupt_while_loading(p, c, said=b''):
    """Ctrl-C at the first refusal, or once that has been said; whatever else is asked is refused, too."""
    for n in range(1000):
        got = c.request()
        if not got:
            break
        c.refuse(got[0], 'loading: the model is still loading')
        if n == 0:
            until(p.stderr, said)
            p.send_signal(signal.SIGINT)


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
        id, _ = expect_followed(c, 'session.info')
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
            cancel_unanswered(peer, p, c, again)

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
        interrupt_while_loading(p, c)
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


def test_say_interrupted_while_away():
    """A cancel to a daemon that has left is given up after 5 s.  What was sent before a daemon left may have been taken,
    whatever the next one says."""
    with Peer() as peer:
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        c.expect('session.say')
        c.cut()
        c = peer.accept()
        interrupt_while_loading(p, c, b'loading')
        _, err = peer.finish(p, 130)
        assert LEFT in err, err

        p, c = say_begin(peer)
        follow_begin(c, 11)
        tell(c, begin(11), text(12, 'one'))
        until(p.stdout, b'one')
        p.send_signal(signal.SIGINT)
        c.expect('session.cancel')
        peer.leave()
        c.cut()
        t = time.monotonic()
        _, err = peer.finish(p, 130)
        assert LEFT in err, err
        assert time.monotonic() - t > 3, 'an end before its time'


def test_say_interrupted_no_session():
    """Ctrl-C before the daemon says that there is no such session: none is made, and nothing is said of it."""
    with Peer() as peer:
        p = peer.start('say', 'a', 'hello')
        c = peer.accept()
        id, _ = c.expect('session.say')
        p.send_signal(signal.SIGINT)
        until(p.stderr, b'leaves it\n')
        c.refuse(id, 'no_session: no session a')
        equal(peer.finish(p, 130), (b'', ''))
        equal(c.request(), None)


def test_say_interrupted_unread():
    """Nobody reads what is printed: Ctrl-C stops the answer all the same, and the end is waited for, no output.
    An answer that cannot be printed is not waited for."""
    for more in [], ['--json']:
        with Peer() as peer:
            p, c = say_begin(peer, *more)
            follow_begin(c, 11)
            tell(c, begin(11), *(text(n, 'x' * 10000) for n in range(12, 32)))
            until(p.stdout, b'x')
            p.send_signal(signal.SIGINT)
            id, _ = c.expect('session.cancel')
            c.answer(id, {'cancelled': True})
            tell(c, end(32, 'cancelled'))
            equal(p.wait(timeout=SECONDS), 130)
            equal(p.stderr.read(), b'')

            with open('/dev/full', 'wb') as full:
                p = subprocess.Popen([SINK, '-S', peer.path, 'say', 'a', 'hello', *more], stdin=subprocess.DEVNULL,
                                     stdout=full, stderr=subprocess.PIPE)
            peer.processes.append(p)
            c = peer.accept()
            id, _ = c.expect('session.say')
            c.answer(id, {'request': 7, 'seq': 10})
            follow_begin(c, 11)
            tell(c, begin(11), text(12, 'one'))
            _, err = peer.finish(p, 1)
            equal(err, 'sink: standard output: No space left on device\n')


def test_say_interrupted_asking():
    """Who asks whether others wait hears why there is no answer; what has ended meanwhile is not cancelled."""
    with Peer() as peer:
        for answer in 'refused', 'ended', 'waits':
            p, c = say_begin(peer, *(['--until-disconnect'] if answer == 'waits' else []))
            follow_begin(c, 11)
            p.send_signal(signal.SIGINT)
            id, _ = expect_followed(c, 'session.info')
            if answer == 'refused':
                c.refuse(id, 'no_session: no session a')
            elif answer == 'ended':
                c.send(*told(begin(11), text(12, 'one'), end(13)), [1, id, None, {'session': 'a', 'queued': 1}])
            else:
                c.answer(id, {'session': 'a', 'queued': 2})
            out, err = peer.finish(p, 130)
            equal(out, b'one\n' if answer == 'ended' else b'', answer)
            equal(err, 'sink: no_session: no session a\n' if answer == 'refused' else '', answer)
            equal(c.request(), None, answer)


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


def test_interrupted_while_sending():
    """A daemon that does not read: what it has half of is taken by nobody, so one Ctrl-C ends it without a word."""
    with Peer() as peer:
        p = peer.start('say', 'a', input=b'x' * 1000000)
        c = peer.accept()
        c.comes()                              # more of it than a socket takes will not
        p.send_signal(signal.SIGINT)
        equal(peer.finish(p, 130), (b'', ''))
        equal(c.request(), None)

        # One before it may have been taken.
        p = peer.start('say', 'a', input=b'x' * 1000000)
        c = peer.accept()
        c.expect('session.say')
        c.cut()
        c = peer.accept()
        c.comes()
        p.send_signal(signal.SIGINT)
        _, err = peer.finish(p, 130)
        assert LEFT in err, err


def test_send_slowly():
    """A daemon that reads a little at a time gets all of it, once."""
    with Peer() as peer:
        p = peer.start('say', 'a', input=b'x' * 1000000)
        c = peer.accept()
        time.sleep(0.2)
        id, params = c.expect('session.say')
        equal(params['text'], 'x' * 1000000)
        c.refuse(id, 'internal: enough')
        peer.finish(p, 1)
        equal(c.request(), None)


def test_not_accepted():
    """A daemon that accepts nobody is waited for, and Ctrl-C ends that, also behind a lost connection."""
    with Peer() as peer:
        waiting = peer.fill()
        p = peer.start('info', 'a')
        time.sleep(0.2)
        equal(p.poll(), None)
        for s in waiting[:-1]:                 # the last one does not wait
            peer.accept().cut()
        c = peer.accept()
        id, _ = c.expect('session.info')
        c.refuse(id, 'no_session: no session a')
        peer.finish(p, 1)

        for taken in False, True:
            p = peer.start('say', 'a', 'hello')
            c = peer.accept()
            id, _ = c.expect('session.say')
            waiting = peer.fill()
            if not taken:
                c.answer(id, {'request': 7, 'seq': 10})
                c.expect('session.follow')
            c.cut()
            lost(p)
            p.send_signal(signal.SIGINT)
            _, err = peer.finish(p, 130)
            assert LEFT in err, err
            for s in waiting[:-1]:
                peer.accept().cut()
        for s in waiting[:-1]:
            s.close()


main(globals())
