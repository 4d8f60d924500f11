"""A model that nobody needs is unloaded and its memory given back; what needs no model does not load it; the next
request that does finds the sessions whole, and the answers go on with the same tokens."""
from harness import *
import mprpc

NAMES = ('a', 'b', 'c')
SECONDS = 1


def begin(d):
    c = d.rpc()
    for i, n in enumerate(NAMES):
        c.call('session.create', session=n, raw=True, sinks=4, window=60, seed=i + 1, temperature=0.9)
        c.call('session.append', session=n, text=book(900, 50 * i).decode(), wait=True)
        c.call('session.generate', session=n, max_tokens=30)
        d.idle(n)
    return c


def go_on(d, c):
    for n in NAMES:
        c.call('session.generate', session=n, max_tokens=30)
    for n in NAMES:
        d.idle(n)
    return [d.transcript(n) for n in NAMES]


def ended(d, name):
    return [e for e in d.events(name) if e['kind'] == 'turn' and e['state'] == 'end']


def state(c):
    """Which hello knows as well as server.info."""
    while True:
        before, hello, after = c.call('server.info'), c.call('hello'), c.call('server.info')
        if before['state'] == after['state']:
            break
    want = {k: after[k] for k in ('state', 'model', 'backend', 'features')}
    if want['model']:
        want['model'] = want['model']['name']
    check_equal({k: hello[k] for k in want}, want, 'hello beside server.info')
    check_equal(want['model'] is None, want['state'] in ('loading', 'unloaded'), 'whether there is a model')
    return after['state']


with Daemon('--slots', 2, model=endless) as d:
    c = begin(d)
    want = [go_on(d, c) for _ in range(3)]
    check_equal(c.call('server.stats')['unloads'], 0, 'unloaded without being told')

with Daemon('--slots', 2, '--unload-after', SECONDS, '--swap-memory', '64M', model=endless) as d:
    c = begin(d)
    loaded = d.rss()
    check_equal(state(c), 'ready', 'state after work')
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded')
    check(d.rss() < loaded or SANITIZE not in ('no', ''), 'memory given back', loaded, d.rss())    # ASan keeps what is freed
    check('unloaded' in d.sink('ls').text and 'unloaded' in d.sink('info').text, 'sink ls, sink info',
          d.sink('ls').text, d.sink('info').text)

    # Nothing of this needs a model.
    c.call('session.list')
    check(len(d.transcript('a')) > 900, 'the log')
    c.call('session.info', session='b')
    c.call('session.rename', session='c', new_name='d')
    c.call('session.rename', session='d', new_name='c')
    check_equal(c.call('session.cancel', session='a')['cancelled'], False, 'an answer to cancel')
    check_equal(c.call('server.stats')['resident_sessions'], 0, 'sessions with a slot')
    check_equal(state(c), 'unloaded', 'state after looking')
    ticks = d.process.pid
    before = [int(x) for x in open(f'/proc/{ticks}/stat').read().rsplit(')', 1)[1].split()[11:13]]
    time.sleep(2)
    after = [int(x) for x in open(f'/proc/{ticks}/stat').read().rsplit(')', 1)[1].split()[11:13]]
    check(sum(after) - sum(before) <= 2, 'processor time while unloaded', before, after)

    check_equal(go_on(d, c), want[0], 'the texts after the return')
    stats = c.call('server.stats')
    check_equal([stats['unloads'], stats['rebuilt_sessions']], [1, 0], 'unloads, rebuilt')

    # Again, and a request of many at once; then the process dies while it is unloaded.
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded again')
    check_equal(go_on(d, c), want[1], 'the texts after the second return')
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded a third time')
    d.restart(signal.SIGKILL)
    c = d.rpc()
    check_equal(go_on(d, c), want[2], 'the texts after SIGKILL')

    # What comes for a model that is unloaded keeps its order, and is nobody's when its client has left.
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded to be asked by many')
    begun, stop = c.send('session.generate', session='a', max_tokens=500000), c.send('session.cancel', session='a')
    check_equal(c.wait(stop)['cancelled'], True, 'an answer behind a model that loads')
    c.wait(begun)
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded again')
    other, n = d.rpc(), len(ended(d, 'b'))
    other.send('session.generate', session='b', max_tokens=500000, until_disconnect=True)
    other.send('score', text='many words of a long text ' * 400)
    other.close()
    wait_for(lambda: state(c) in ('ready', 'unloaded') and c.call('session.info', session='b')['queued'] == 0, 20, 'nothing queued')
    computed = c.call('server.stats')['computed_tokens']
    time.sleep(0.5)
    check_equal(c.call('server.stats')['computed_tokens'], computed, 'computed for nobody')
    check_equal(ended(d, 'a')[-1]['reason'], 'cancelled')
    check(all(e['reason'] == 'cancelled' for e in ended(d, 'b')[n:]), 'no answer for nobody', ended(d, 'b')[n:])
    want[2] = [d.transcript(n) for n in NAMES]

    # So does all that a client sends about the same session, and what it names by another name.
    def unloaded():
        return wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded to be sent several at once')

    unloaded()
    seen = c.pipeline(('session.delete', {'session': 'x'}), ('session.rename', {'session': 'a', 'new_name': 'z'}),
                      ('session.info', {'session': 'z'}), ('session.rename', {'session': 'z', 'new_name': 'a'}))
    check_equal([seen[0], seen[2]['state'], state(c)], ['no_session', 'unloaded', 'unloaded'], 'without a model')
    seen = c.pipeline(('session.append', {'session': 'a', 'text': '!', 'wait': True}),
                      ('session.rename', {'session': 'a', 'new_name': 'z'}),
                      ('session.append', {'session': 'z', 'text': '?', 'wait': True}), ('session.info', {'session': 'a'}),
                      ('session.rename', {'session': 'z', 'new_name': 'a'}), ('session.create', {'session': 'x', 'raw': True}),
                      ('session.info', {'session': 'x'}), ('session.append', {'session': 'x', 'text': 'y', 'wait': True}))
    check_equal([x for x in seen if type(x) is str], [seen[3]], 'refused')
    check(seen[3] == 'no_session' and 0 < seen[0]['request'] < seen[2]['request'] < seen[7]['request'], 'in order', seen)
    check_equal(d.transcript('a'), want[2][0] + b'!?', 'what was appended')
    want[2][0] += b'!?'
    unloaded()
    check_equal(c.pipeline(('session.delete', {'session': 'x'}), ('session.info', {'session': 'x'})), [{}, 'no_session'], 'deleted')
    check_equal(state(c), 'unloaded', 'state after a session was deleted')

    # A stop while it is unloaded; a file that is not there when it is to come back.
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded a fourth time')
    os.rename(d.model, d.model + '.away')
    try:
        c.call('session.generate', session='a', max_tokens=1)
        raise Failed('a model that is not there was loaded')
    except Exception as e:
        check('endless.gguf' in str(e) or 'No such file' in str(e), 'why it cannot come back', str(e))
    check_equal(state(c), 'unloaded', 'state without a file')
    os.rename(d.model + '.away', d.model)
    # One that was cut, and another one.
    whole = open(d.model, 'rb').read()
    for data, name in ((whole[:len(whole) - 100], 'bad_model'), (open(TINY, 'rb').read(), 'model_changed')):
        with open(d.model, 'wb') as f:
            f.write(data)
        try:
            c.call('session.generate', session='a', max_tokens=1)
            raise Failed('a model that is not the sessions\' was loaded')
        except mprpc.RpcError as e:
            check_equal(e.name, name, 'why it cannot come back')
        seen = c.pipeline(('session.append', {'session': 'a', 'text': '!'}), ('session.rename', {'session': 'a', 'new_name': 'z'}),
                          ('session.info', {'session': 'z'}), ('session.rename', {'session': 'z', 'new_name': 'a'}))
        check(seen[0] == name and seen[2]['session'] == 'z' and seen[3]['session'] == 'a', 'behind what was refused', seen)
        check_equal([d.transcript(n) for n in NAMES], want[2], 'the log meanwhile')
        wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded again')
    with open(d.model, 'wb') as f:
        f.write(whole)
    c.call('session.generate', session='a', max_tokens=1)
    d.idle('a')
    wait_for(lambda: state(c) == 'unloaded', 20, 'unloaded a fifth time')

# The weights of a model of some size.
with Daemon('--slots', 2, '--unload-after', SECONDS, model=small_model()) as d:
    c = begin(d)
    loaded = d.rss()
    wait_for(lambda: state(c) == 'unloaded', 20, 'the small model unloaded')
    check(loaded > 80 << 20 and d.rss() < 24 << 20, 'memory given back', loaded, d.rss())
    d.sink('say', 'a', 'Hello')
    check(d.rss() > 80 << 20, 'memory taken again', d.rss())
