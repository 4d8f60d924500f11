"""A daemon whose model cannot be loaded says why: in its log, in its exit status, and to
the client for whose sake it was started."""
import shutil
from harness import *
import mprpc

d = tempfile.mkdtemp(prefix='sinkd-test.')
p = None
try:
    bad = os.path.join(d, 'bad.gguf')
    with open(bad, 'wb') as f:
        f.write(open(TINY, 'rb').read()[:5000])
    for model, word in ((bad, 'bad_model'), (os.path.join(d, 'absent'), 'absent')):
        p = subprocess.run([SINKD, '--model', model, '--socket', d + '/s', '--state', d + '/state'],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
        out = p.stdout.decode()
        check(p.returncode == 1 and word in out, f'{model}', p.returncode, out)
        check(not os.path.exists(d + '/s'), 'the socket is left over')
    if shutil.which('systemd-socket-activate'):
        p = subprocess.Popen(['systemd-socket-activate', '-l', d + '/a', '--fdname=sinkd', SINKD, '--model', bad,
                              '--state', d + '/state', '--max-sessions', '9'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(d + '/a'), what='the socket')
        time.sleep(0.2)
        c = mprpc.Client(d + '/a', timeout=30 * SLOW)
        info = c.call('server.info')
        check_equal(info['state'] in ('loading', 'failed'), True, 'state')
        check_equal(set(info) - {'why'}, {'server', 'protocol', 'state', 'progress', 'model', 'backend', 'features', 'limits'}, 'keys')
        check_equal(info['limits'], {'message_max': 1 << 20, 'name_max': 64, 'key_max': 64, 'connections': 64, 'sessions': 9,
                                     'queued_bytes': 64 << 20, 'stored_bytes': 4 << 30}, 'limits without a model')
        try:
            c.call('session.create', session='a')
            raise Failed('a session without a model')
        except mprpc.RpcError as e:
            check_equal(e.name, 'bad_model', 'what the client hears')
        check_equal(p.wait(30 * SLOW), 1, 'exit status')
        p = None
finally:
    if isinstance(p, subprocess.Popen):
        p.kill()
        p.wait()
    shutil.rmtree(d, ignore_errors=True)
