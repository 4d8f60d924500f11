"""One uid cannot see, name or exhaust another's sessions; sharing is by group; caps are hit by name."""
import os
import subprocess
import time

from harness import SINK, Daemon, Output, check, check_equal, skip

if os.getuid() != 0:
    skip('needs root, to be two users')
ANNA, BERT = 61001, 61002


def sink_as(d, uid, *args, want=0, groups=()):
    p = subprocess.run([SINK, '-S', d.socket, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=120, user=uid, group=uid, extra_groups=groups)
    r = Output(p)
    check(want is None or r.code == want, f'{uid}: sink {args}', r.code, r.err)
    return r


def refused(d, uid, name, *args, **kw):
    r = sink_as(d, uid, *args, want=1, **kw)
    check(name in r.err, f'{uid}: sink {args} should be refused {name}', r.err)


with Daemon('--max-sessions', 3, '--max-queued-bytes', 100000, '--max-connections', 5) as d:
    os.chmod(d.socket, 0o666)
    sink_as(d, ANNA, 'new', 'diary', '--raw', '--seed', 1)
    sink_as(d, ANNA, 'append', 'diary', 'a secret of anna')
    d.rpc().call('session.create', session='roots', raw=True)

    # Bert sees nothing of it, and may take the same name.
    check('diary' not in sink_as(d, BERT, 'ls').text and 'roots' not in sink_as(d, BERT, 'ls').text, 'ls')
    for verb in (('info',), ('read',), ('show',), ('append',), ('rm',), ('generate', '-n', 1)):
        for name in ('diary', f'{ANNA}:diary', '0:roots'):
            text = ('x',) if verb == ('append',) else ()
            refused(d, BERT, 'no_session', verb[0], *verb[1:], name, *text)
    sink_as(d, BERT, 'new', 'diary', '--raw')
    sink_as(d, BERT, 'append', 'diary', 'mine')
    check_equal(sink_as(d, ANNA, 'read', 'diary').out.strip(), b'a secret of anna')
    check_equal(sink_as(d, BERT, 'read', 'diary').out.strip(), b'mine')
    refused(d, BERT, 'not_allowed', 'new', f'{ANNA}:planted')

    # Root sees both.
    owners = sorted(s['owner'] for s in d.json('ls')['sessions'])
    check_equal(owners, [0, ANNA, BERT], 'owners that root sees')
    check_equal(d.sink('read', f'{ANNA}:diary').out.strip(), b'a secret of anna')

    # Caps are a user's own.
    sink_as(d, BERT, 'new', 'two', '--raw')
    sink_as(d, BERT, 'new', 'three', '--raw')
    refused(d, BERT, 'cap_sessions', 'new', 'four', '--raw')
    sink_as(d, ANNA, 'new', 'another', '--raw')
    sink_as(d, BERT, 'say', 'two', '-n', 2, 'hi')
    idle = []
    while len(idle) < 5:
        idle.append(d.sink_popen('read', 'two', '-f', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 user=BERT, group=BERT))
        time.sleep(0.1)
    r = sink_as(d, BERT, 'ls', want=None)
    for p in idle:
        p.kill()
        p.wait()
    sink_as(d, ANNA, 'ls')
    check(r.code != 0 and 'cap_connections' in r.err, 'connections of one user', r.code, r.err)

    # Shared with anna's group: read, then write; never delete.
    refused(d, BERT, 'no_session', 'read', f'{ANNA}:diary', groups=(ANNA,))
    sink_as(d, ANNA, 'set', 'diary', 'share=group-read')
    check_equal(sink_as(d, BERT, 'read', f'{ANNA}:diary', groups=(ANNA,)).out.strip(), b'a secret of anna')
    refused(d, BERT, 'not_allowed', 'append', f'{ANNA}:diary', 'x', groups=(ANNA,))
    refused(d, BERT, 'no_session', 'read', f'{ANNA}:diary')
    sink_as(d, ANNA, 'set', 'diary', 'share=group-write')
    sink_as(d, BERT, 'append', f'{ANNA}:diary', ', and of bert', groups=(ANNA,))
    refused(d, BERT, 'not_allowed', 'rm', f'{ANNA}:diary', groups=(ANNA,))
    state = os.stat(d.state)
    check_equal((state.st_uid, state.st_mode & 0o077), (os.getuid(), 0), 'the state directory')
