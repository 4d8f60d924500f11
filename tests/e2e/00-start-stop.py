"""The daemon starts, says READY, stops cleanly; stale sockets are replaced, live ones never."""
import os
import socket
import stat
import subprocess

from harness import SINKD, SLOW, TINY, Daemon, check, check_equal

with Daemon() as d:
    check_equal(stat.S_IMODE(os.stat(d.state).st_mode), 0o700, 'mode of the state directory')
    for folder, _, files in os.walk(d.state):
        for f in files:
            check_equal(stat.S_IMODE(os.stat(os.path.join(folder, f)).st_mode) & 0o077, 0, f'mode of {f}')
    check_equal(d.rpc().call('server.info')['state'], 'ready')

    # Nobody else gets the socket or the state while it runs.
    def second(sock, state):
        return subprocess.run([SINKD, '--model', TINY, '--socket', sock, '--state', state], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW)
    p = second(d.socket + '2', d.state)
    check(p.returncode > 0 and b'state_in_use' in p.stdout, 'the same state directory', p.returncode, p.stdout)
    p = second(d.socket, d.state + '2')
    check(p.returncode > 0, 'the same socket', p.stdout)
    check_equal(d.rpc().call('server.info')['state'], 'ready', 'the first daemon after that')
    d.stop()
    check(not os.path.exists(d.socket), 'the socket is gone after a clean stop')

    stale = socket.socket(socket.AF_UNIX)
    stale.bind(d.socket)
    stale.close()
    d.start()
    check_equal(d.rpc().call('server.info')['state'], 'ready', 'with a stale socket in its place')
    d.kill()
    d.start()
    check_equal(d.rpc().call('server.info')['state'], 'ready', 'after SIGKILL')
