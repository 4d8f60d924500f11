"""A socket that nobody listens on is replaced, a live one never, a file that is no
socket never; at the end only our own is removed."""
from harness import *


def second(d, state, *more):
    p = subprocess.run([SINKD, '--model', TINY, '--socket', d.socket, '--state', state, *more],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    return p.returncode, p.stdout.decode(errors='replace')


with Daemon() as d:
    mode = os.stat(d.socket).st_mode & 0o777
    check(mode in (0o600, 0o660), 'mode of the socket', oct(mode))
    check_equal(os.stat(d.state).st_mode & 0o777, 0o700, 'mode of the state directory')

    # Alive: another daemon is refused, the first one is unharmed.
    code, out = second(d, d.state + '2')
    check(code == 1 and 'state_in_use' in out, 'beside a live socket', code, out)
    d.rpc().call('hello')

    # Killed: the path is left over, and replaced.
    d.kill()
    check(os.path.exists(d.socket), 'SIGKILL leaves the path')
    d.start()
    d.rpc().call('hello')
    check('nobody listened on' in d.log_text(), 'the log tells of it')
    d.stop()
    check(not os.path.exists(d.socket), 'a clean stop removes the path')

    # A plain file is somebody's.
    with open(d.socket, 'w') as f:
        f.write('mine')
    code, out = second(d, d.state)
    check(code == 1 and 'bad_config' in out and 'no socket' in out, 'a plain file', code, out)
    check_equal(open(d.socket).read(), 'mine', 'the file')
    os.unlink(d.socket)

    # Removed and replaced by someone else while we run: not ours to remove.
    d.start()
    os.unlink(d.socket)
    other = socket.socket(socket.AF_UNIX)
    other.bind(d.socket)
    d.stop()
    check(os.path.exists(d.socket), "somebody else's socket was removed")
    other.close()

    code, out = second(d, d.state, '--socket', '/' + 'x' * 200)
    check(code == 1 and 'bad_config' in out, 'a path too long', code, out)
