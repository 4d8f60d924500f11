"""An answer whose session waits for a slot is cancelled at once, before it has begun, behind appends and in its middle; the
session goes on from where it stood, and its text is what it is where nothing waits."""
from harness import *

PROMPT = dict(text=book(300).decode())
SOON = 3                               # seconds; a busy session gives its slot up after ten


def ends(d, name):
    return [(e['request'], e['reason']) for e in d.events(name) if e['kind'] == 'turn' and e['state'] == 'end']


def cancel(c, name, what):
    begun = time.monotonic()
    answer = c.call('session.cancel', session=name)
    check(time.monotonic() - begun < SOON * SLOW, f'{what}: cancelled in time', time.monotonic() - begun)
    return answer['cancelled']


def make(d, name, **more):
    d.new(name, temperature=0.9, window=200, **more).call('session.append', session=name, wait=True, **PROMPT)


def generate(d, c, name, n):
    c.call('session.generate', session=name, max_tokens=n)
    d.idle(name)


def busy(d, c, name='busy'):
    """A session that has the only slot, and does not end."""
    c.call('session.generate', session=name, max_tokens=500000)
    wait_for(lambda: c.call('session.info', session=name)['state'] == 'generating', what=f'{name} generates')


def played(slots, waits):
    """waits: the answers that are cancelled wait for a slot; else there are none."""
    with Daemon('--slots', slots, model=endless) as d:
        c = d.rpc()
        make(d, 'busy', seed=9)
        make(d, 'a')
        generate(d, c, 'a', 20)
        if waits:
            busy(d, c)
            first = c.call('session.generate', session='a', max_tokens=50)['request']
            second = c.call('session.generate', session='a', max_tokens=60)['request']
            check_equal(cancel(c, 'a', 'the first of two'), True)
            check_equal(ends(d, 'a')[1:], [(first, 'cancelled')], 'answers that are over')
            check_equal(cancel(c, 'a', 'the second'), True)
            check_equal(ends(d, 'a')[1:], [(first, 'cancelled'), (second, 'cancelled')], 'answers that are over')
            check_equal(cancel(c, 'a', 'nothing'), False)
            # Sent together: the answer is not on disk yet.
            for i in range(5):
                c.pipeline(('session.generate', dict(session='a', max_tokens=30)), ('session.cancel', dict(session='a')))
            check_equal([reason for _, reason in ends(d, 'a')[1:]], ['cancelled'] * 7, 'answers that are over')
            check_equal(d.sink('cancel', 'a').code, 0)
        c.call('session.append', session='a', text=' and then the rain')
        if waits:
            late = c.call('session.generate', session='a', max_tokens=30)['request']
            check_equal(cancel(c, 'a', 'behind an append'), True)
            check_equal(ends(d, 'a')[-1], (late, 'cancelled'), 'behind an append')
            check_equal(cancel(c, 'a', 'an append alone'), False)
            d.restart()                # the busy one goes on, and what waits is on disk
            c = d.rpc()
            cancel(c, 'busy', 'the busy one')
        generate(d, c, 'a', 40)
        return d.transcript('a'), c.call('server.stats')


text, stats = played(1, True)
check_equal(text, played(2, False)[0], 'the text of one that was cancelled while it waited')
check_equal((stats['rebuilt_sessions'], stats['checkpoints_refused']), (0, 0), 'caches that were of no use')

# In its middle: put out by one that had waited long enough.
with Daemon('--slots', 1, model=endless) as d:
    c = d.rpc()
    for i, name in enumerate(('a', 'b')):
        make(d, name, seed=i + 1)
    busy(d, c, 'a')
    c.call('session.generate', session='b', max_tokens=500000)
    wait_for(lambda: c.call('session.info', session='b')['state'] == 'generating', what='the slot changes hands')
    position = c.call('session.info', session='a')['position']
    check_equal(cancel(c, 'a', 'in its middle'), True)
    check_equal([reason for _, reason in ends(d, 'a')], ['cancelled'])
    check_equal(c.call('session.info', session='a')['position'], position, 'nothing was added')
    check_equal(cancel(c, 'b', 'one that has a slot'), True)
    generate(d, c, 'a', 30)
    check_equal(c.call('server.stats')['rebuilt_sessions'], 0, 'rebuilt')
