"""The sessions' memory outlives the daemon where a service manager keeps it: caches go on as they are after
SIGKILL in the middle of an answer, with the same tokens; and memory that ends the daemon is not kept for ever."""
from harness import *

SLAB = 'sinkd-slab'


class Manager:
    """What systemd does with FDSTORE: keeps the file, and hands it to the next process."""

    def __init__(self, d):
        self.d, self.fd = d, None
        self.path = os.path.join(d.dir, 'manager')
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def start(self, keep=True):
        d, fd = self.d, self.fd if keep else None
        env = {**d.env, 'NOTIFY_SOCKET': self.path}
        command = [SINKD, '--model', d.model, '--socket', d.socket, '--state', d.state, *d.args]
        if fd is not None:
            env.update(LISTEN_FDS='1', LISTEN_FDNAMES=SLAB)
            command = ['/bin/sh', '-c', f'LISTEN_PID=$$ exec "$@" 3<&{fd}', 'sh', *command]
        with open(d.log, 'ab') as log:
            d.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                         pass_fds=() if fd is None else (fd,))
        self.hear('READY=1')

    def hear(self, word, seconds=30):
        self.socket.settimeout(seconds * SLOW)
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, 8192, 1)
            m = data.decode()
            if 'FDSTOREREMOVE=1' in m and self.fd is not None:
                os.close(self.fd)
                self.fd = None
            if 'FDSTORE=1' in m:
                check(f'FDNAME={SLAB}' in m and len(fds) == 1, 'FDSTORE', m, fds)
                self.fd, fds = fds[0], []
            check(not fds, 'a file that nobody asked for', m)
            if word in m:
                return m


def conversation(disturb):
    """Text, and an answer that is cut off twice; its transcript, and the counters of the last daemon."""
    d = Daemon('--slots', 3, start=False, model=endless)
    try:
        m = Manager(d)
        m.start()
        check(m.fd is not None, 'the daemon gave its memory to the manager')
        c = d.new('a', window=60, seed=5, temperature=0.9)
        d.new('b', window=28)
        c.call('session.append', session='b', text='idle all the time', wait=True)
        c.call('session.append', session='a', text=book(3000).decode(), wait=True)
        c.call('session.generate', session='a', max_tokens=6000, key='g')
        for n in (300, 900) if disturb else ():
            wait_for(lambda: d.rpc().call('session.info', session='a')['position'] > 700 + n, 60, 'some of the answer')
            d.kill()
            m.start()
            stats = d.rpc().call('server.stats')
            check_equal(stats['kept_sessions'], 2, 'caches that went on')
        d.idle('a', 120)
        stats = d.rpc().call('server.stats')
        text = d.transcript('a')
        return d, m, text, stats
    except BaseException:
        d.show_log()
        d.cleanup()
        raise


d, m, want, _ = conversation(False)
d.stop()
d.cleanup()
d, m, got, stats = conversation(True)
try:
    check_equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(want).hexdigest(), 'the transcript')
    check_equal([stats[k] for k in ('rebuilt_sessions', 'checkpoints_loaded')], [0, 0], 'rebuilt, loaded')
    check(stats['prefill_tokens'] < 300, 'text computed again', stats['prefill_tokens'])

    # A clean restart keeps it too.
    d.stop()
    m.start()
    check_equal(d.rpc().call('server.stats')['kept_sessions'], 2, 'caches after a clean restart')

    # The daemon ends again and again before it has finished a step: the memory is dropped, and the
    # sessions come back from checkpoint and log.
    for kept in (2, 0):
        d.kill()
        m.start()
        check_equal(d.rpc().call('server.stats')['kept_sessions'], kept, 'caches kept in a crash loop')
    check('not taken over' in d.log_text(), 'the log says why')
    d.rpc().call('session.generate', session='a', max_tokens=5)
    d.idle('a')
    check(d.transcript('a').startswith(want), 'the transcript after the loop')

    # Garbage in place of a header, and a file that is no slab at all.
    os.pwrite(m.fd, b'\xff' * 64, os.fstat(m.fd).st_size // 4096 * 4096 - 8192)
    os.ftruncate(m.fd, os.fstat(m.fd).st_size - 4096)
    d.kill()
    m.start()
    check_equal(d.rpc().call('server.stats')['kept_sessions'], 0, 'caches of a damaged slab')
    d.rpc().call('session.generate', session='a', max_tokens=5)
    d.idle('a')
    d.stop()
    check(not SANITIZER_REPORT.search(d.log_text()), 'report in the log')
except BaseException:
    d.show_log()
    raise
finally:
    d.cleanup()

# A daemon that unloads its model gives that memory back too, and hands over what it takes after that.
d = Daemon('--slots', 3, '--unload-after', 1, start=False)
try:
    m = Manager(d)
    m.start()
    c = d.new('a')
    c.call('session.append', session='a', text=book(300).decode(), wait=True)
    check(m.fd is not None, 'memory that the manager keeps')
    m.hear('STATUS=unloaded')
    check(m.fd is None, 'the manager let go of it')
    c.call('session.append', session='a', text='more', wait=True)
    m.hear('FDSTORE=1')
    check(m.fd is not None, 'memory that the manager keeps after the return')
    d.kill()
    m.start()
    check_equal(d.rpc().call('server.stats')['kept_sessions'], 1, 'caches that went on after the return')
    d.stop()
except BaseException:
    d.show_log()
    raise
finally:
    d.cleanup()
