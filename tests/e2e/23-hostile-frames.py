"""100,000 random and malformed frames over real sockets, in bounded time and memory: the
daemon lives, says `parse` or better, and another session is unharmed."""
import random
from harness import *
import msgpack

N = 100000 if SANITIZE in ('no', '') else 10000
rng = random.Random(20261124)
METHODS = ['hello', 'session.list', 'session.info', 'session.append', 'session.say', 'session.read', 'session.follow',
           'session.set', 'score', 'model.tokenize', 'model.detokenize', 'server.info', 'session.create', 'nope', '']
KEYS = ['session', 'text', 'tokens', 'role', 'key', 'wait', 'sinks', 'window', 'temperature', 'stop', 'from', 'limit',
        'errors', 'seed', 'x', '']


def value(depth=0):
    kind = rng.randrange(12 if depth < 4 else 8)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < .5
    if kind == 2:
        return rng.choice([0, 1, 127, 128, 65536, 2 ** 32, 2 ** 64 - 1, -1, -2 ** 63, rng.randrange(1000)])
    if kind == 3:
        return rng.choice([0.0, -1.5, float('nan'), float('inf'), 1e300])
    if kind in (4, 5):
        return rng.choice(['', 'victim', 'a' * 300, 'root:x', '1:', 'user', '\0', 'é'])
    if kind in (6, 7):
        return rng.randbytes(rng.randrange(40))
    if kind in (8, 9):
        return [value(depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value(depth + 1) for _ in range(rng.randrange(4))}


def frame():
    kind = rng.randrange(10)
    if kind < 2:                    # bytes without a meaning
        return rng.randbytes(rng.randrange(1, 60))
    if kind < 4:                    # a value that is no message
        return msgpack.packb(value())
    params = {rng.choice(KEYS): value(1) for _ in range(rng.randrange(5))}
    if params.get('session') == 'victim':
        params['session'] = 'other'
    message = msgpack.packb([0, rng.randrange(2 ** 32), rng.choice(METHODS), [params]])
    if kind < 6:                    # cut
        return message[:rng.randrange(len(message))]
    if kind < 8:                    # one bit wrong
        b = bytearray(message)
        b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
        return bytes(b)
    return message


# Claims far larger than what comes.
CLAIMS = [b'\xdd\xff\xff\xff\xff', b'\xdf\xff\xff\xff\xff', b'\xdb\xff\xff\xff\xff', b'\xc6\xff\xff\xff\xff',
          b'\x94\x00\x01\xa5hello\xdd\x00\x0f\xff\xff', b'\xdd\x00\x00\xff\xff' * 9, b'\x91' * 100000, b'\xc9\xff\xff\xff\xff\x01']

with Daemon('--max-sessions', 20) as d:
    d.new('victim').call('session.append', session='victim', text='safe and sound', wait=True)
    before, start, sent = d.rss(), time.monotonic(), 0

    def burst(frames):
        """All of them on one connection, taking what comes back without looking."""
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.socket)
        s.settimeout(30 * SLOW)
        try:
            s.sendall(b''.join(frames))
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()

    while sent < N:
        n = rng.choice([1, 1, 2, 3, 5, 20])    # the first that is no message ends a connection
        burst([frame() for _ in range(n)])
        sent += n
        if rng.random() < .05:
            burst([rng.choice(CLAIMS)])
    seconds = time.monotonic() - start
    check(d.alive(), 'the daemon is gone')
    check(seconds < 200 * SLOW, 'seconds', seconds)
    grown = d.rss() - before
    if SANITIZE in ('no', ''):
        check(grown < 64 << 20, 'memory grew by', grown)
    events = d.events('victim')
    check_equal(text_of(events), b'safe and sound', 'the victim\'s text')
    print(f'{sent} frames in {seconds:.1f} s; memory grew by {grown >> 10} KiB')
