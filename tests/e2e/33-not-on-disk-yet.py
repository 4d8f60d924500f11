"""A follower that knows of an entry whose write has failed asks for it at intervals, not without a pause, and gets it when
the disk is there again: each entry once, in order."""
import resource
from harness import *

IGNORE = ('sh', '-c', 'trap "" XFSZ; exec "$@"', 'sh')         # the limit is an error then, not the end


def disk(d, works):
    """A file may not grow, nor what is in it be changed: as a disk that fails."""
    resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if works else 0, resource.RLIM_INFINITY))


def requests(c, seconds):
    before = c.call('server.stats')['requests']
    time.sleep(seconds)
    return c.call('server.stats')['requests'] - before


def take(f, seqs, until, seconds):
    """Adds what f follows, until that seq has come, or as many seconds are over."""
    end = time.monotonic() + seconds * SLOW
    while (not seqs or seqs[-1] < until) and time.monotonic() < end:
        event = f.notification(timeout=0.2)
        if event and event[1]['kind'] == 'lagged':             # where its page failed together with the write
            f.send('session.follow', session='a', **{'from': event[1]['next']})
        elif event and event[1]['seq'] > 0:
            seqs.append(event[1]['seq'])
    return seqs


with Daemon(model=endless, wrap=IGNORE) as d:
    c = d.new('a')
    c.call('session.append', session='a', text='once upon a time', wait=True)
    c.call('session.generate', session='a', max_tokens=500000)
    wait_for(lambda: c.call('session.info', session='a')['seq'] > 4000, what='a log that is larger than what lies unread')
    slow = d.rpc()
    slow.send('session.follow', session='a', **{'from': 1})    # and does not read yet
    # Its answer is sent: so much that the rest waits for it.
    wait_for(lambda: slow.socket.recv(200000, socket.MSG_PEEK), what='the first page')
    time.sleep(0.3)
    disk(d, False)
    c.send('session.cancel', session='a')                      # answered once its end is on disk
    i = wait_for(lambda: [i for i in [d.rpc().call('session.info', session='a')] if i['state'] != 'generating'],
                 what='the end of the answer')
    last = i[0]['seq']
    seqs, n = [], -1
    while len(seqs) > n:                                       # all that comes
        n = len(seqs)
        take(slow, seqs, last, 1)
    have = seqs[-1]                                            # the end, and perhaps some before it, could not be written
    check(last - 10 < have < last, 'the last one that is on disk', have, last)
    late, waits = d.rpc(), d.rpc()                             # who comes when its news are over
    late.call('session.follow', session='a', **{'from': have - 1})
    read = waits.send('session.read', session='a', wait_ms=30000, **{'from': have + 1})
    check_equal(take(late, [], last, 1), [have - 1, have], 'what is on disk')
    n = requests(c, 1)
    check(n < 30, 'requests in a second', n)
    disk(d, True)
    check_equal(take(slow, seqs, last, 20), list(range(1, last + 1)), 'what came')
    check_equal(take(late, [], last, 20), list(range(have + 1, last + 1)), 'what came late')
    check_equal(waits.wait(read)['events'][0]['seq'], have + 1, 'what was waited for')
    check(requests(c, 1) < 10, 'requests when all has come')
