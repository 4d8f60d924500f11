"""Sockets that a service manager hands over are used, by name where there are several,
and our own path is then neither made nor removed."""
import shutil
from harness import *
import mprpc

if not shutil.which('systemd-socket-activate'):
    skip('no systemd-socket-activate')


def activated(d, listen, names, path, *args):
    """Starts the daemon at the first connection; returns the process."""
    command = ['systemd-socket-activate', *[a for p in listen for a in ('-l', p)], '--fdname=' + names,
               SINKD, '--model', TINY, '--socket', os.path.join(d, 'own'), '--state', os.path.join(d, 'state'), *args]
    log = open(os.path.join(d, 'log'), 'ab')
    env = {k: v for k, v in os.environ.items() if k != 'NOTIFY_SOCKET'}
    p = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    wait_for(lambda: os.path.exists(path), what='the listening socket')
    time.sleep(0.2)        # it listens after it binds
    return p


d = tempfile.mkdtemp(prefix='sinkd-test.')
p = None
try:
    # The first request waits for the model, and is answered by the daemon it started.
    one = os.path.join(d, 'one')
    p = activated(d, [one], 'sinkd', one)
    c = mprpc.Client(one, timeout=60 * SLOW)
    check_equal(len(c.call('model.tokenize', text='hello')['tokens']) > 0, True, 'tokens')
    check(not os.path.exists(os.path.join(d, 'own')), 'a socket of its own beside an inherited one')
    c.close()
    p.terminate()
    check_equal(p.wait(30 * SLOW), 0, 'exit status')
    check(os.path.exists(one), 'an inherited socket was removed')
    os.unlink(one)

    # Of several, only the one with our name is ours.
    other, ours = os.path.join(d, 'other'), os.path.join(d, 'ours')
    p = activated(d, [other, ours], 'else:sinkd', ours)
    c = mprpc.Client(ours, timeout=60 * SLOW)
    check_equal(c.call('hello')['protocol'], 1, 'protocol')
    try:
        mprpc.Client(other, timeout=1).call('hello')
        raise Failed('a socket that is not ours was served')
    except (ConnectionError, socket.timeout):
        pass
    p.terminate()
    check_equal(p.wait(30 * SLOW), 0, 'exit status')

    # A configuration that is wrong: whose connection started the daemon hears why, by its name.
    for i, (args, word, status) in enumerate(((['--config', os.path.join(d, 'nothing')], 'nothing', 2),
                                              (['--max-sesions', '5'], 'max-sesions', 2),
                                              (['--model', ''], 'model', 1))):
        wrong = os.path.join(d, f'wrong{i}')
        p = activated(d, [wrong], 'sinkd', wrong, *args)
        try:
            mprpc.Client(wrong, timeout=60 * SLOW).call('session.list')
            raise Failed('a daemon with a wrong configuration answered')
        except mprpc.RpcError as e:
            check(e.name in ('bad_config', 'bad_model') and word in str(e), 'why', str(e))
        check_equal(p.wait(60 * SLOW), status, 'exit status')
    report = SANITIZER_REPORT.search(open(os.path.join(d, 'log'), errors='replace').read())
    check(not report, 'report in the log')
finally:
    if p and p.poll() is None:
        p.kill()
        p.wait()
    shutil.rmtree(d, ignore_errors=True)
