"""The client's exit codes: 0 done, 1 refused, 2 usage, 3 no daemon, 130 interrupted."""
import signal
import time

from harness import SLOW, Daemon, check, check_equal, endless, output
import subprocess

with Daemon(model=endless) as d:
    check_equal(d.sink('new', 'a', '--raw', '--seed', 1).code, 0)
    r = d.sink('info', 'nobody', want=1)
    check('no_session' in r.err or 'no session' in r.err, 'the reason is on standard error', r.err)
    check_equal(r.out, b'', 'nothing on standard output')
    d.sink('new', 'a', want=1)
    d.sink('new', 'a/b', want=1)
    d.sink('new', 'big', '--window', 100000000, want=1)
    for usage in ((), ('paint',), ('new',), ('new', 'a', 'b'), ('new', 'x', '--colour', 'red'), ('ls', 'a'),
                  ('new', 'x', '--seed'), ('new', 'x', '--seed', 'red')):
        r = d.sink(*usage, want=2)
        check(r.err, 'usage says what is wrong', usage)
    d.sink('--help')
    check('sinkd' in d.sink('--version').text or 'sink' in d.sink('--version').text, 'version')

    # Interrupted: the client leaves with 130; the answer is stopped, or goes on without it.
    p = d.sink_popen('say', 'b', '-n', 200000, 'Go on for ever', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output(p, 1)                       # the reply has begun
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=30 * SLOW)
    check_equal(p.returncode, 130, 'after SIGINT')
    d.sink('cancel', 'b', want=None)
    d.idle('b')
    check(any(e['kind'] == 'turn' and e.get('reason') == 'cancelled' for e in d.events('b')), 'cancelled')

    # A reader that goes away is no error of the daemon's.
    p = d.sink_popen('read', 'a', '-f', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.2)
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=30 * SLOW)
    check(d.alive(), 'the daemon lives')

    d.stop()
    r = d.sink('ls', want=3)
    check(r.err, 'no daemon: says so', r.err)
    d.start()
    d.sink('ls')
