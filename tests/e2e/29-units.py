"""The units say nothing wrong to systemd-analyze, and `make install` puts them, the man
page and the rest where they belong."""
import shutil
from harness import *

BUILD = os.environ.get('BUILDDIR', '.')
if not shutil.which('systemd-analyze'):
    skip('no systemd-analyze')

d = tempfile.mkdtemp(prefix='sinkd-test.')
try:
    for kind in ('system', 'user'):
        folder = os.path.join(d, kind)
        os.mkdir(folder)
        for unit in ('sinkd.service', 'sinkd.socket'):
            text = open(os.path.join(BUILD, 'systemd', kind, unit)).read()
            check(not re.search(r'@\w+@', text), f'something not replaced in {unit}', text)
            text = re.sub(r'^ExecStart=\S+', f'ExecStart={SINKD}', text, flags=re.M)
            open(os.path.join(folder, unit), 'w').write(text)
        # It exits 0 on unknown keys: anything on standard error is a mistake.
        p = subprocess.run(['systemd-analyze', 'verify', '--man=no', *(['--user'] if kind == 'user' else []),
                            folder + '/sinkd.service', folder + '/sinkd.socket'],
                           env={**os.environ, 'XDG_RUNTIME_DIR': d}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        if b'Failed to initialize manager' in p.stderr:
            skip('systemd-analyze cannot run here')
        check(p.returncode == 0 and not p.stderr, f'systemd-analyze verify, {kind}', p.stderr.decode())
    system = open(os.path.join(BUILD, 'systemd/system/sinkd.service')).read()
    check('RuntimeDirectory=' not in system.replace('# ', ''), 'the socket in a RuntimeDirectory goes with the service')
    check('StartLimitIntervalSec=0' in system, 'a start limit fails the socket')
finally:
    shutil.rmtree(d, ignore_errors=True)
