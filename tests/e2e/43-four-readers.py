"""Four readers on one session, one late, one very slow: the same bytes for all, and the slow one delays nobody."""
import subprocess
import threading

import msgpack

from harness import SANITIZE, SLOW, Daemon, book, check, check_equal, text_of
import mprpc

text = book(3 << 20)


class Slow:
    """Follows, and takes a byte at a time from its socket until it is let go; then catches up."""

    def __init__(self, path):
        self.c = mprpc.Client(path, timeout=120 * SLOW)
        self.c.call('session.follow', session='a', **{'from': 1})
        self.hurry, self.raw, self.out = threading.Event(), b'', b''
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        s, at, lagged = self.c.socket, 1, 0
        while not self.hurry.is_set():
            self.raw += s.recv(1)
            self.hurry.wait(1)                     # a byte a second
        self.c.unpacker.feed(self.raw)
        for m in self.c.unpacker:
            self.c.notifications.append((m[1], m[2][0]))
        while not self.out.endswith(b'[the end]'):
            note = self.c.notification(timeout=60 * SLOW)
            check(note, 'the slow reader hears nothing')
            e = note[1]
            if e['kind'] == 'lagged':
                lagged += 1
                check_equal(e['next'], at, 'where to go on')
                self.c.call('session.follow', session='a', **{'from': at})
            elif e['seq']:
                check_equal(e['seq'], at, 'seq')
                at += 1
                self.out += text_of([e])
        self.lagged = lagged


def follow(d):
    return d.sink_popen('read', 'a', '-f', stdout=subprocess.PIPE)


def rest(p):
    out = b''
    while not out.endswith(b'[the end]'):
        more = p.stdout.read1(1 << 16)
        check(more, 'a reader ended early')
        out += more
    p.kill()
    p.wait()
    return out


with Daemon('--max-output-bytes', 1 << 20) as d:
    c = d.new('a', window=60)
    readers, slow = [follow(d), follow(d)], Slow(d.socket)
    results = [None] * 3

    def collect(i, p):
        results[i] = rest(p)
    threads = [threading.Thread(target=collect, args=(i, p)) for i, p in enumerate(readers)]
    for t in threads:
        t.start()
    memory = d.rss()
    half = len(text) // 2
    d.sink('append', 'a', input=text[:half])
    c.call('session.generate', session='a', max_tokens=500, temperature=0)
    late = follow(d)
    threads.append(threading.Thread(target=collect, args=(2, late)))
    threads[-1].start()
    d.sink('append', 'a', input=text[half:])
    c.call('session.append', session='a', text='[the end]', wait=True)
    d.idle('a')
    grown = d.rss() - memory
    check(slow.thread.is_alive() and len(slow.raw) < 1 << 16, 'the slow reader is far behind when the writer is done')
    slow.hurry.set()
    for t in [*threads, slow.thread]:
        t.join(120 * SLOW)
        check(not t.is_alive(), 'a reader did not finish')
    whole = d.transcript('a')
    check(whole.startswith(text[:half]) and whole.endswith(text[half:] + b'[the end]'), 'the transcript')
    check(slow.out == whole, 'the slow reader has other bytes', len(slow.out), len(whole))
    shown = d.sink('read', 'a').out.rstrip(b'\n')      # U+FFFD for what is not UTF-8
    check(shown.startswith(text[:half]) and shown.endswith(text[half:] + b'[the end]'), 'what the client shows')
    for who, got in zip(('first', 'second', 'late'), results):
        check(got == shown, f'the {who} reader has other bytes', len(got or b''), len(shown))
    check(slow.lagged > 0, 'the slow reader was told that it lagged')
    check(grown < 32 << 20 or SANITIZE not in ('', 'no'), 'memory', grown)     # a sanitizer keeps what was freed
    print(f'{len(whole)} bytes; memory grew by {grown >> 10} KiB; the slow reader lagged {slow.lagged} times')
