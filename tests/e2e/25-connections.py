"""Connections: the cap of a user is named to the one too many, running out of file
numbers only delays, and what leaves is given back."""
import resource
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
