"""Connections: the cap of a user is named to the one too many, running out of file
numbers only delays, and what leaves is given back, also what leaves in two steps."""
import resource
import msgpack
from harness import *
import mprpc

with Daemon('--max-connections', 5) as d:
    held = [mprpc.Client(d.socket) for _ in range(5)]
    for c in held:
        c.call('hello')
    extra = mprpc.Client(d.socket)
    try:
        extra.call('session.list')
        raise Failed('a sixth connection was served')
    except mprpc.RpcError as e:
        check_equal(e.name, 'cap_connections', 'name')
    try:
        extra.call('hello')
        raise Failed('a refused connection goes on')
    except (ConnectionError, mprpc.Gone):
        pass
    many = []
    for _ in range(60):            # far over: closed at once, or told
        try:
            many.append(mprpc.Client(d.socket))
        except ConnectionError:
            pass
    held[0].call('session.list')   # those that are there do not notice
    for c in many:
        c.close()
    held.pop().close()

    def free():
        c = mprpc.Client(d.socket)
        try:
            return c.call('hello')
        except (mprpc.RpcError, ConnectionError):
            return None
        finally:
            c.close()
    wait_for(free, what='a place that became free')

def half(*requests):
    """A connection that has asked these and shut its writing side."""
    c = mprpc.Client(d.socket, timeout=30 * SLOW)
    c.socket.sendall(b''.join(msgpack.packb([0, i, method, [params]]) for i, (method, params) in enumerate(requests)))
    c.socket.shutdown(socket.SHUT_WR)
    return c


def wakes():
    status = open(f'/proc/{d.process.pid}/status').read()
    return int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', status, re.M).group(1))


with Daemon('--max-connections', 4, model=endless) as d:
    w = d.new('a')
    FOLLOW = 'session.follow', {'session': 'a'}
    for first in (True, False):            # the end of input before the answer, and behind it
        c = half(FOLLOW) if first else mprpc.Client(d.socket, timeout=30 * SLOW)
        if first:
            c.wait(0)
        else:
            c.call('session.follow', session='a')
            c.socket.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
        w.call('session.append', session='a', text='heard', wait=True)
        kinds = [c.notification(10 * SLOW)[1]['kind'] for _ in range(2)]
        check_equal(kinds, ['text', 'applied'], f'heard by one that asks no more, {first}')
        time.sleep(0.5)
        before = wakes()
        time.sleep(1)
        check(wakes() - before <= 2 or SANITIZE not in ('no', ''), 'wake-ups beside one that asks no more', wakes() - before)
        c.close()

    def followed():                        # a quiet session
        c = half(FOLLOW)
        try:
            return c.wait(0)
        except (mprpc.RpcError, ConnectionError):
            return None
        finally:
            c.close()
    for _ in range(12):
        wait_for(followed, 10, 'a place of one that left in two steps')

    # What it has begun and waits for.
    c = half(('session.generate', {'session': 'a', 'max_tokens': 500000, 'until_disconnect': True}),
             ('session.append', {'session': 'a', 'text': 'x', 'wait': True}))
    c.wait(0)
    wait_for(lambda: w.call('session.info', session='a')['state'] == 'generating', 30, 'an answer for one that asks no more')
    time.sleep(0.2)
    check_equal(w.call('session.info', session='a')['state'], 'generating', 'for one that asks no more, and waits')
    c.close()
    wait_for(lambda: w.call('session.info', session='a')['state'] == 'idle', 10, 'the end of what nobody waits for')
    check_equal([e['reason'] for e in d.events('a') if e['kind'] == 'turn' and e['state'] == 'end'], ['cancelled'], 'why')

with Daemon('--max-connections', 1000) as d:
    # As few file numbers as it can do with: it must not spin, die or forget the waiting.
    used = len(os.listdir(f'/proc/{d.process.pid}/fd'))
    resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
    held = [mprpc.Client(d.socket) for _ in range(8)]
    for c in held:
        c.call('hello')
    late = mprpc.Client(d.socket, timeout=30 * SLOW)       # in the backlog
    id = late.send('hello')
    time.sleep(1)
    ticks = sum(int(x) for x in open(f'/proc/{d.process.pid}/stat').read().rsplit(')', 1)[1].split()[11:13])
    time.sleep(1)
    more = sum(int(x) for x in open(f'/proc/{d.process.pid}/stat').read().rsplit(')', 1)[1].split()[11:13]) - ticks
    check(more < 20 * SLOW, 'CPU ticks in a second without file numbers', more)
    for c in held:
        c.close()
    check_equal(late.wait(id)['protocol'], 1, 'the one that waited')
    late.close()
