"""What tools/fetch-model and tools/fetch-cuda share: archives of Python packages, fetched by
pip, unpacked here (nothing of them is installed or run), kept in $XDG_CACHE_HOME/sinkd
(~/.cache/sinkd), where a result appears whole or not at all."""
import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile


def say(text):
    print(text, file=sys.stderr, flush=True)


def sha256(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        for block in iter(lambda: f.read(1 << 20), b''):
            h.update(block)
    return h.hexdigest()


def download(package, folder):
    """The one archive of a package, as pip leaves it in an empty folder."""
    os.mkdir(folder)
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:',
               '--no-cache-dir', '--disable-pip-version-check', '--dest', folder, package]
    quiet = [] if sys.stderr.isatty() else ['--quiet']
    for attempt in (1, 2, 3):
        if subprocess.run(command + quiet, stdout=sys.stderr).returncode == 0:
            break
        say(f'pip could not fetch {package} (attempt {attempt} of 3)')
    found = glob.glob(os.path.join(folder, '*.whl'))
    if len(found) != 1:
        sys.exit(f'could not fetch {package}: is there a network, and python3-pip?')
    return found[0]


@contextlib.contextmanager
def cache():
    """The folder of what was fetched; one process at a time."""
    folder = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'sinkd')
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, '.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@contextlib.contextmanager
def workplace(folder):
    """A folder beside the result, gone afterwards."""
    work = tempfile.mkdtemp(prefix='fetch.', dir=folder)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
