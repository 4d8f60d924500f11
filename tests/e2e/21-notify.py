"""What the service manager hears: loading, READY only when clients are served, the
watchdog's beat from the engine, RELOADING and READY again, STOPPING."""
import ctypes
from harness import *

PTRACE_ATTACH, PTRACE_DETACH, WALL = 16, 17, 0x40000000    # stops one thread of another process
d = Daemon(start=False)
d.env['WATCHDOG_USEC'] = '400000'
path = os.path.join(d.dir, 'manager')
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(path)
heard = []


def hear(until, seconds=30):
    """Collects messages until one has that word; returns it."""
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        manager.settimeout(0.1)
        try:
            m = manager.recv(8192).decode()
        except socket.timeout:
            continue
        heard.append((time.monotonic(), m))
        if until in m:
            return m
    raise Failed(f'{until} was not heard; heard:', heard[-5:])


try:
    with open(d.log, 'ab') as log:
        d.process = subprocess.Popen([SINKD, '--model', TINY, '--socket', d.socket, '--state', d.state],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**d.env, 'NOTIFY_SOCKET': path})
    first = hear('STATUS=')
    check('READY=1' not in first and 'EXTEND_TIMEOUT_USEC=' in first and 'loading' in first, 'first message', first)
    ready = hear('READY=1')
    check('STATUS=' in ready, 'status with ready', ready)
    c = d.rpc()
    hello = c.call('hello')
    check_equal(hello['state'], 'ready', 'state when ready')
    check(hello['model'] and hello['backend'] and 'bitwise' in hello['features'], 'hello when ready', hello)

    # The watchdog: about one beat each half interval, and nothing else while idle.
    heard.clear()
    start = time.monotonic()
    while time.monotonic() < start + 1.5 * SLOW:
        hear('WATCHDOG=1')
    beats = len(heard)
    check(all(m == 'WATCHDOG=1' for _, m in heard), 'only beats while idle', heard)
    check(3 <= beats <= 9 * SLOW, 'beats', beats)

    # A stopped engine is a stopped watchdog: what a debugger, or a hang, does to it.
    d.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    manager.setblocking(False)
    try:
        while manager.recv(8192):
            pass
    except BlockingIOError:
        pass
    time.sleep(1)
    try:
        raise Failed('heard from a stopped process', manager.recv(8192))
    except BlockingIOError:
        pass
    d.process.send_signal(signal.SIGCONT)
    hear('WATCHDOG=1')

    # The engine alone hangs: serve answers, and does not say that all is well.
    libc = ctypes.CDLL(None, use_errno=True)
    engine = sorted(int(t) for t in os.listdir(f'/proc/{d.process.pid}/task'))[1]
    if os.getuid() == 0 and SANITIZE in ('no', '') and libc.ptrace(PTRACE_ATTACH, engine, 0, 0) == 0:
        os.waitpid(engine, WALL)
        try:
            time.sleep(0.3)
            manager.setblocking(False)
            try:
                while manager.recv(8192):
                    pass
            except BlockingIOError:
                pass
            check_equal(c.call('hello')['protocol'], 1, 'serve while the engine hangs')
            time.sleep(1)
            try:
                raise Failed('heard while the engine hangs', manager.recv(8192))
            except BlockingIOError:
                pass
        finally:
            libc.ptrace(PTRACE_DETACH, engine, 0, 0)
        hear('WATCHDOG=1')

    d.process.send_signal(signal.SIGHUP)
    check('MONOTONIC_USEC=' in hear('RELOADING=1'), 'reloading')
    hear('READY=1')

    d.process.send_signal(signal.SIGTERM)
    check('STATUS=stopping' in hear('STOPPING=1'), 'stopping')
    check_equal(d.process.wait(30 * SLOW), 0, 'exit status')
    d.process = None

    # Without a watchdog nothing is sent, and nobody wakes up, while idle.
    d.env.pop('WATCHDOG_USEC')
    with open(d.log, 'ab') as log:
        d.process = subprocess.Popen([SINKD, '--model', TINY, '--socket', d.socket, '--state', d.state],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**d.env, 'NOTIFY_SOCKET': path})
    hear('READY=1')
    time.sleep(1)

    def switches():
        """Voluntary context switches of all threads: times that one went to sleep again."""
        n = 0
        for task in os.listdir(f'/proc/{d.process.pid}/task'):
            text = open(f'/proc/{d.process.pid}/task/{task}/status').read()
            n += int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', text, re.M).group(1))
        return n
    before = switches()
    time.sleep(2)
    if SANITIZE in ('no', ''):
        check(switches() - before <= 2, 'wake-ups in two idle seconds', switches() - before)
    manager.settimeout(0.05)
    try:
        raise Failed('heard while idle without a watchdog', manager.recv(8192))
    except socket.timeout:
        pass
    d.stop()
    check(not SANITIZER_REPORT.search(d.log_text()), 'report in the log')
except BaseException:
    d.show_log()
    raise
finally:
    d.cleanup()
