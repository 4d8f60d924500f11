"""A start that reads all of its database, which was not closed, says so, how large that is, and asks for as much time
as a slow card takes; one that need not does not."""
from harness import *

RATE = 100000                          # bytes a second, and no slower, is what a card may have


def start(d):
    """Everything that a service manager hears until the daemon is ready."""
    path, heard = os.path.join(d.dir, 'manager'), []
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(path)
    manager.settimeout(60 * SLOW)
    with open(d.log, 'ab') as log:
        d.process = subprocess.Popen([SINKD, '--model', TINY, '--socket', d.socket, '--state', d.state],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**d.env, 'NOTIFY_SOCKET': path})
    while not heard or 'READY=1' not in heard[-1]:
        heard.append(manager.recv(8192).decode())
    manager.close()
    os.unlink(path)
    return heard


def checks(heard):
    return [m for m in heard if 'STATUS=checking the database' in m]


with Daemon(start=False) as d:
    check_equal(checks(start(d)), [], 'a first start')
    c = d.new('a')
    for i in range(12):
        c.call('session.append', session='a', text=book(500000, 500000 * i).decode())
    d.kill()
    size = sum(os.path.getsize(os.path.join(d.state, name)) for name in ('sinkd.db', 'sinkd.db-wal'))
    check(size > 3e6, 'a database that says something', size)
    heard = start(d)
    check_equal(len(checks(heard)), 1, f'words about the check in {heard}')
    check_equal(checks(heard)[0], heard[0], 'the first that is heard')
    megabytes = float(re.search(r'database, ([0-9.]+) MB', heard[0]).group(1))
    check(abs(megabytes - size / 1e6) < 0.1, 'its size', heard[0], size)
    seconds = int(re.search(r'^EXTEND_TIMEOUT_USEC=(\d+)$', heard[0], re.M).group(1)) / 1e6
    check(size / RATE + 30 <= seconds <= size / RATE + 120, 'time that is asked for', seconds, size)
    d.stop()
    check_equal(checks(start(d)), [], 'one that was closed')
