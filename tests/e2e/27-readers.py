"""Readers at every moment: nothing is missing and nothing comes twice, whatever a writer
does meanwhile; waits end with news, in time, or when the session goes."""
import threading
from harness import *
import mprpc


def follow_all(c, name, first, last, out):
    """Events first .. last as notifications, following again when lagged."""
    c.call('session.follow', session=name, **({'from': first} if first is not None else {}))
    while True:
        n = c.notification(timeout=30 * SLOW)
        check(n is not None, 'no event within 30 s', out[-1:])
        e = n[1]
        if e['kind'] == 'lagged':
            c.call('session.follow', session=name, **{'from': e['next']})
        elif e['seq'] > 0:
            out.append(e)
            if last is not None and e['seq'] >= last:
                return


with Daemon() as d:
    w = d.new('a')

    # Followers and waiters that begin at random moments of a busy log.
    N = 300
    stop = threading.Event()
    results, failures = {}, []

    def reader(i):
        try:
            time.sleep(0.02 * (i % 10))
            c = mprpc.Client(d.socket, timeout=60 * SLOW)
            out = []
            if i % 2:
                follow_all(c, 'a', 1 + 10 * i if i % 3 else 1, N, out)
            else:
                at = 1
                while at <= N:
                    r = c.call('session.read', session='a', wait_ms=5000, limit=1 + i, **{'from': at})
                    check(r['events'], 'an empty page while there is more', at)
                    out += r['events']
                    at = r['next']
            results[i] = out
            c.close()
        except BaseException as e:
            failures.append((i, e))

    threads = [threading.Thread(target=reader, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    n = 0
    while w.call('session.info', session='a')['seq'] < N:
        w.call('session.append', session='a', text=f'line {n}\n')
        n += 1
    d.idle('a')
    for t in threads:
        t.join(60 * SLOW)
        check(not t.is_alive(), 'a reader hangs')
    if failures:
        raise failures[0][1]
    want = {e['seq']: e for e in d.events('a')}
    for i, out in results.items():
        seqs = [e['seq'] for e in out]
        check_equal(seqs, list(range(seqs[0], seqs[0] + len(seqs))), f'seqs of reader {i}')
        check(all(want[e['seq']]['kind'] == e['kind'] and want[e['seq']].get('text') == e.get('text') for e in out),
              f'events of reader {i}')

    # A wait ends in time, empty; with news, at once; and not before.
    end = w.call('session.read', session='a', **{'from': 10 ** 9})
    check_equal(end['events'], [], 'past the end')
    end = w.call('session.info', session='a')['seq'] + 1
    c = d.rpc()
    t = time.monotonic()
    r = c.call('session.read', session='a', wait_ms=400, **{'from': end})
    check(r['events'] == [] and r['next'] == end and 'durable' in r, 'an empty wait', r)
    check(0.3 < time.monotonic() - t < 2 * SLOW, 'its time', time.monotonic() - t)
    id = c.send('session.read', session='a', wait_ms=20000, **{'from': end})
    time.sleep(0.2)
    t = time.monotonic()
    w.call('session.append', session='a', text='news')
    check_equal(c.wait(id)['events'][0]['text'], 'news', 'the news')
    check(time.monotonic() - t < 2 * SLOW, 'how soon', time.monotonic() - t)
    end = w.call('session.append', session='a', text='more', wait=True)['seq'] + 1

    # News at the very moment when the wait begins: never lost, never late.
    usual = 0.003
    for i in range(300):
        end = w.call('session.info', session='a')['seq'] + 1
        t, sent = time.monotonic(), w.send('session.append', session='a', text='!')
        while i > 0 and time.monotonic() - t < usual * (0.4 + 0.7 * i / 300):
            pass
        id = c.send('session.read', session='a', wait_ms=20000, **{'from': end})
        check(c.wait(id)['events'], 'an empty answer beside news')
        check(time.monotonic() - t < 10 * SLOW, 'news that came late, round', i)
        if i % 10 == 0:
            usual = time.monotonic() - t
        w.wait(sent)
    d.idle('a')

    # Many sessions followed by one: each hears its own, once.
    many = {f's{i}': [] for i in range(100)}
    f = d.rpc()
    for name in many:
        w.call('session.create', session=name, raw=True, sinks=4, window=16)
        f.call('session.follow', session=name)
    for id in [w.send('session.append', session=name, text=name, wait=True) for name in many]:
        w.wait(id)
    while True:
        n = f.notification(timeout=1 * SLOW)
        if n is None:
            break
        if n[1]['seq']:
            many[n[1]['session']].append(n[1]['seq'])
    for name, seqs in many.items():
        check(seqs and seqs == list(range(1, len(seqs) + 1)), f'seqs of {name}', seqs)
    f.close()
    end = w.call('session.info', session='a')['seq'] + 1

    # From now on; again from an old place; and no more.
    check_equal(c.call('session.follow', session='a')['next'], end, 'next of a follow from now')
    w.call('session.append', session='a', text='live', wait=True)
    seen = []
    while not any(e['kind'] == 'applied' for e in seen):
        e = c.notification(timeout=10 * SLOW)[1]
        seen += [e] if e['seq'] else []
    check_equal([e['seq'] for e in seen], list(range(end, end + len(seen))), 'live seqs')
    check_equal(c.call('session.follow', session='a', **{'from': end})['next'], end, 'next of a follow again')
    again = []
    while len(again) < len(seen):
        e = c.notification(timeout=10 * SLOW)[1]
        again += [e] if e['seq'] else []
    check_equal(again, seen, 'the same events again')
    ids = [c.send('session.follow', session='a', **{'from': at}) for at in (1, end, end, 2, end)]
    check_equal([c.wait(id)['next'] for id in ids], [1, end, end, 2, end], 'next of follows at once')
    w.call('session.append', session='a', text='heard once', wait=True)
    last, heard = w.call('session.info', session='a')['seq'], []
    while n := c.notification(timeout=0.3 * SLOW):
        heard += [n[1]['seq']] if n[1]['seq'] else []
    check_equal([heard.count(seq) for seq in range(end + len(seen), last + 1)], [1] * (last + 1 - end - len(seen)),
                'how often the last of five follows hears what is new')
    check_equal(c.call('session.unfollow', session='a'), {}, 'unfollow')
    while c.notification(timeout=0.3):
        pass
    w.call('session.append', session='a', text='unheard', wait=True)
    check_equal(c.notification(timeout=0.3), None, 'after unfollow')

    # Renamed: events and waits go on under the new name.
    reader = d.sink_popen('read', 'a', '-f', stdout=subprocess.PIPE)
    output(reader, 1)                          # what it sees before the renaming
    c.call('session.follow', session='a')
    at = w.call('session.info', session='a')['seq'] + 1
    id = c.send('session.read', session='a', wait_ms=20000, **{'from': at})
    short = c.send('session.read', session='a', wait_ms=500, **{'from': at})
    time.sleep(0.2)
    w.call('session.rename', session='a', new_name='b')
    check_equal(c.wait(short)['events'], [], 'a wait that ends after a rename')
    news = c.notification(timeout=10 * SLOW)[1]
    check_equal((news['seq'], news.get('state'), news['session']), (0, 'renamed', 'b'), 'news of the renaming')
    w.call('session.append', session='b', text='renamed', wait=True)
    check_equal(c.wait(id)['events'][0]['session'], 'b', 'name in a waiting read')
    while True:
        e = c.notification(timeout=10 * SLOW)[1]
        if e['seq']:
            break
    check_equal(e['session'], 'b', 'name in an event')
    for word in 'renamed', 'lately':
        seen = b''
        while not seen.endswith(word.encode()):
            seen += output(reader, 1)
        if word == 'renamed':
            w.call('session.append', session='b', text='lately', wait=True)

    # Deleted: followers hear, waits are refused.
    at = w.call('session.info', session='b')['seq'] + 1
    id = c.send('session.read', session='b', wait_ms=20000, **{'from': at})
    time.sleep(0.2)
    w.call('session.delete', session='b')
    check_equal(reader.wait(10 * SLOW), 1, 'exit status of a reader whose session is deleted')
    try:
        c.wait(id)
        raise Failed('a wait on a deleted session was answered')
    except mprpc.RpcError as e:
        check_equal(e.name, 'no_session', 'a wait on a deleted session')
    while True:
        e = c.notification(timeout=10 * SLOW)[1]
        if e.get('state') == 'deleted':
            break
    d.new('b')
    w.call('session.append', session='b', text='another one of this name', wait=True)
    check_equal(c.notification(timeout=0.3), None, 'of a new session with the name of a followed one that was deleted')

    # Root reads a session by its owner's number or name, and hears it called so.
    c.call('session.follow', session=f'{os.getuid()}:b')
    w.call('session.append', session='b', text='x', wait=True)
    while True:
        e = c.notification(timeout=10 * SLOW)[1]
        if e['seq']:
            break
    if os.getuid() == 0:
        check_equal(e['session'], '0:b', 'name in the event')
        check_equal(c.call('session.read', session='root:b')['events'][0]['session'], 'root:b', 'name in the page')

    # A stop answers the reads that wait.
    id = c.send('session.read', session='b', wait_ms=60000, **{'from': 10 ** 6})
    time.sleep(0.2)
    t = time.monotonic()
    d.stop()
    check_equal(c.wait(id)['events'], [], 'a wait at the stop')
    check(time.monotonic() - t < 5 * SLOW, 'seconds of the stop', time.monotonic() - t)

# As many sessions as one may follow; following one of them again takes no more, however many times at once.
with Daemon('--max-sessions', 300) as d:
    c, names = d.rpc(), [f's{i}' for i in range(257)]
    for id in [c.send('session.create', session=name, raw=True, sinks=4, window=16) for name in names]:
        c.wait(id)
    for _ in range(2):
        for id in [c.send('session.follow', session=name) for name in [*names[:256], *names[:100]]]:
            check_equal(c.wait(id)['next'], 1, 'next')
    try:
        c.call('session.follow', session=names[256])
        raise Failed('one more than a connection may follow')
    except mprpc.RpcError as e:
        check_equal(e.name, 'too_large', 'one more than a connection may follow')
    c.call('session.unfollow', session=names[0])
    again = [c.send('session.follow', session=names[1]) for _ in range(100)]
    check_equal(c.call('session.follow', session=names[256])['next'], 1, 'a place that became free')
    for id in again:
        c.wait(id)
    c.call('session.append', session=names[1], text='heard once', wait=True)
    heard = []
    while n := c.notification(timeout=0.3 * SLOW):
        heard += [n[1]['seq']] if n[1]['seq'] else []
    check_equal(heard, [1, 2], 'entries heard, once')
