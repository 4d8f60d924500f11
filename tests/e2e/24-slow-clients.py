"""Clients that do not read, or send a byte at a time, or leave in the middle: bounded
memory, nobody else waits, a stop does not wait for them either."""
from harness import *
import msgpack

with Daemon('--max-output-bytes', 1 << 20) as d:
    c = d.new('a')
    c.call('session.append', session='a', text=book(60000).decode(), wait=True)
    base = d.rss()

    # One that asks and asks and never reads.
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(d.socket)
    deaf.setblocking(False)
    asked = 0
    request = b''.join(msgpack.packb([0, i, 'session.show', [{'session': 'a'}]]) +
                       msgpack.packb([0, i, 'session.read', [{'session': 'a'}]]) for i in range(100))
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            asked += deaf.send(request)
        except BlockingIOError:
            time.sleep(0.02)
    if SANITIZE in ('no', ''):
        check(d.rss() - base < 48 << 20, 'memory for a client that does not read', d.rss() - base)
    # Its requests are not even read any more; the others' are.
    check(asked < 2 << 20, 'bytes taken of a client that does not read', asked)
    t = time.monotonic()
    c.call('session.info', session='a')
    check(time.monotonic() - t < 1 * SLOW, 'another client waited', time.monotonic() - t)

    # One whose answers come at once, and are not read.
    deaf2 = socket.socket(socket.AF_UNIX)
    deaf2.connect(d.socket)
    deaf2.setblocking(False)
    asked, request, end = 0, msgpack.packb([0, 1, 'hello', []]) * 1000, time.monotonic() + 2
    while time.monotonic() < end:
        try:
            asked += deaf2.send(request)
        except BlockingIOError:
            time.sleep(0.01)
    check(asked < 2 << 20, 'bytes taken of a client that does not read', asked)

    # Many long answers asked at once: some come, the rest is refused by name.
    s = socket.socket(socket.AF_UNIX)
    s.connect(d.socket)
    s.settimeout(60 * SLOW)
    s.sendall(b''.join(msgpack.packb([0, i, 'session.read', [{'session': 'a'}]]) for i in range(200)))
    time.sleep(1)
    unpacker, answers = msgpack.Unpacker(max_buffer_size=1 << 26), {}
    while len(answers) < 200:
        unpacker.feed(s.recv(1 << 20))
        answers.update((m[1], m[2]) for m in unpacker)
    s.close()
    refused = [e for e in answers.values() if e is not None]
    check(0 < len(refused) < 200 and all(e.startswith('too_large') for e in refused), 'refused', len(refused), refused[:3])

    # Followers that never read: a writer goes on.
    for _ in range(4):
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.socket)
        s.sendall(msgpack.packb([0, 1, 'session.follow', [{'session': 'a', 'from': 1}]]))
        c.call('session.append', session='a', text=book(20000).decode(), wait=True)

    # A request a byte at a time is a request.
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(d.socket)
    for b in msgpack.packb([0, 7, 'hello', [{}]]):
        slow.sendall(bytes([b]))
        time.sleep(0.01)
    slow.settimeout(10 * SLOW)
    check_equal(msgpack.unpackb(slow.recv(4096))[1], 7, 'id')

    # Many connections with half a message each.
    halves = []
    for _ in range(40):
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.socket)
        s.sendall(msgpack.packb([0, 1, 'session.append', [{'session': 'a', 'text': 'x' * 900000}]])[:500000])
        halves.append(s)
    c.call('session.info', session='a')
    if SANITIZE in ('no', ''):
        check(d.rss() - base < 128 << 20, 'memory for forty halves', d.rss() - base)
    for s in halves:
        s.close()

    # One that asks and shuts its writing side still gets its answer.
    s = socket.socket(socket.AF_UNIX)
    s.connect(d.socket)
    s.sendall(msgpack.packb([0, 9, 'session.append', [{'session': 'a', 'text': 'last', 'wait': True}]]))
    s.shutdown(socket.SHUT_WR)
    s.settimeout(20 * SLOW)
    got = b''
    while True:
        more = s.recv(4096)
        if not more:
            break
        got += more
    check('position' in msgpack.unpackb(got)[3], 'answer after shutdown', got)

    # The deaf one is still there: the stop does not wait long for it.
    t = time.monotonic()
    d.stop()
    check(time.monotonic() - t < 8 * SLOW, 'a stop waited for a stuck client', time.monotonic() - t)
