"""The harness of the end-to-end tests: a real daemon on a private socket and state
directory, the real client, and clients of our own.

Its one hard idea: a test owns everything it starts (a temporary directory, processes)
and leaves nothing, and a daemon that ends by itself, late, or with a sanitizer's report
fails the test that ran it.  It knows the command line and the wire, nothing of the
daemon's inside.

    from harness import *
    with Daemon() as d:
        d.sink('new', 'a')
        check_equal(d.rpc().call('session.info', session='a')['session'], 'a')

A script exits 0 (passed), 77 (skipped) or otherwise (failed).  The environment comes
from the Makefile: SINKD, SINK, SRCDIR, SANITIZE.
"""
import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SRCDIR = os.environ.get('SRCDIR', os.path.dirname(os.path.dirname(HERE)))
SINKD = os.path.abspath(os.environ.get('SINKD', './sinkd'))
SINK = os.path.abspath(os.environ.get('SINK', './sink'))
SANITIZE = os.environ.get('SANITIZE', 'no')
TINY = os.path.join(SRCDIR, 'tests/data/tiny-llama.gguf')
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'sinkd')

# Everything takes longer under a sanitizer, and the machine may be busy.
SLOW = {'no': 1, '': 1}.get(SANITIZE, 6)
SANITIZER_REPORT = re.compile(r'ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion .* failed')


# Shells let what they start in the background ignore it, and so would all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Failed(Exception):
    """A check did not hold."""


def check(condition, message, *more):
    if not condition:
        raise Failed(' '.join([str(message), *map(repr, more)]))


def check_equal(got, want, what=''):
    if got != want:
        raise Failed(f'{what or "value"}: got {cut(got)}, want {cut(want)}')


def cut(x, n=400):
    s = repr(x)
    return s if len(s) <= n else f'{s[:n]}... ({len(s)} characters)'


def skip(why):
    print('skipped:', why)
    sys.exit(77)


def small_model(always=False):
    """The small real model, from the cache that tools/fetch-model fills.  always: also under
    AddressSanitizer."""
    if SANITIZE not in ('no', '') and (not always or 'thread' in SANITIZE):
        skip('the small model is too slow under a sanitizer')
    path = os.path.join(CACHE, 'SmolLM2-135M-Instruct.Q4_1.gguf')
    if not os.path.exists(path):
        skip('no small model: run tools/fetch-model small')
    return path


def simulated():
    """The options of a daemon on the simulated CUDA device."""
    path = os.path.join(os.path.dirname(SINKD), 'sinkd-cusim.so')
    if not os.path.exists(path):
        skip('no simulated CUDA module: configured without CUDA, or make sinkd-cusim.so has not run')
    return '--backend', 'cuda', '--cuda-module', path


def few_rows(options):
    """With these a step of one or two sessions has fewer rows of prefill than go through cuBLAS: results are the same
    bits, however rows come."""
    return (*options, '--chunk', 7)


def endless(folder):
    """The tiny model without a token that ends an answer: what is generated goes on until it is stopped."""
    with open(TINY, 'rb') as f:
        data = f.read()
    for there, instead in ((b'<|im_end|>', b'<|im_xxx|>'), (b'<|endoftext|>', b'<|xxxoftext|>'),
                           (b'tokenizer.ggml.eos_token_id', b'tokenizer.ggml.xxx_token_id')):
        check(there in data, 'in the tiny model', there)
        data = data.replace(there, instead)
    path = os.path.join(folder, 'endless.gguf')
    with open(path, 'wb') as f:
        f.write(data)
    return path


def wait_for(condition, seconds=30, what='condition', step=0.02):
    """The first true value of condition(), within that many seconds."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f'{what}: not within {seconds * SLOW} s')
        time.sleep(step)


def text_of(events, kinds=('text',)):
    """The bytes of a list of events, as they are."""
    out = b''
    for e in events:
        if e['kind'] in kinds:
            raw = e.get('bytes')
            out += raw if raw is not None else e['text'].encode()
    return out


class Daemon:
    """One daemon.  Used as a context manager; start, stop and kill may be called in it."""

    def __init__(self, *args, model=TINY, env=None, start=True, wrap=(), threads=2):
        self.dir = tempfile.mkdtemp(prefix='sinkd-test.')
        os.chmod(self.dir, 0o755)
        self.socket = os.path.join(self.dir, 'run', 's')
        self.state = os.path.join(self.dir, 'state')
        self.log = os.path.join(self.dir, 'log')
        os.mkdir(os.path.dirname(self.socket), 0o755)
        self.wrap, self.model = list(wrap), model(self.dir) if callable(model) else model
        self.args = [*(['--threads', str(threads)] if threads else []), *map(str, args)]
        self.env = {**os.environ, **(env or {})}
        for name in ('LISTEN_FDS', 'LISTEN_PID', 'WATCHDOG_USEC', 'SINKD_SOCKET'):
            self.env.pop(name, None)
        self.process, self.clients, self.started = None, [], []
        if start:
            try:
                self.start()
            except BaseException:
                self.show_log()
                self.cleanup()
                raise

    # ---- the process ----

    def start(self, ready=True):
        """Starts it and waits for READY=1 on a notify socket of our own."""
        path = os.path.join(self.dir, 'notify')
        if os.path.exists(path):
            os.unlink(path)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(path)
        os.chmod(path, 0o777)
        command = [*self.wrap, SINKD, '--model', self.model, '--socket', self.socket,
                   '--state', self.state, *self.args]
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**self.env, 'NOTIFY_SOCKET': path})
        try:
            if ready:
                self.wait_ready(notify)
        finally:
            notify.close()
        return self

    def wait_ready(self, notify, seconds=60):
        notify.settimeout(0.1)
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            try:
                if b'READY=1' in notify.recv(4096):
                    return
            except socket.timeout:
                pass
            if self.process.poll() is not None:
                raise Failed(f'the daemon ended with {self.process.returncode} before it was ready')
        raise Failed('the daemon did not become ready')

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        return self.process.wait(timeout=60 * SLOW)

    def stop(self):
        """A clean stop: SIGTERM, exit 0, no report in the log."""
        if self.process and self.process.poll() is None:
            check_equal(self.kill(signal.SIGTERM), 0, "the daemon's exit status after SIGTERM")
        self.process = None

    def restart(self, sig=signal.SIGTERM):
        if sig == signal.SIGTERM:
            self.stop()
        else:
            self.kill(sig)
        return self.start()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def rss(self):
        """Resident memory in bytes, without the pages of the model file."""
        fields = dict(line.split(':', 1) for line in open(f'/proc/{self.process.pid}/status') if ':' in line)
        return sum(int(fields[k].split()[0]) for k in ('RssAnon', 'RssShmem')) * 1024

    def log_text(self):
        with open(self.log, errors='replace') as f:
            return f.read()

    # ---- clients ----

    def sink_popen(self, *args, **kw):
        """The client, as a process that ends with the test at the latest."""
        p = subprocess.Popen([SINK, '-S', self.socket, *map(str, args)], env=self.env, **kw)
        self.started.append(p)
        return p

    def sink(self, *args, input=None, want=0, timeout=60):
        """Runs the client; returns what it wrote, as bytes.  want: its exit status."""
        p = subprocess.run([SINK, '-S', self.socket, *map(str, args)], input=input if input is not None else b'',
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env, timeout=timeout * SLOW)
        if want is not None and p.returncode != want:
            raise Failed(f'sink {" ".join(map(str, args))[:200]}: exit {p.returncode}, want {want}; '
                         f'stderr: {p.stderr.decode(errors="replace")[-800:]}')
        return Output(p)

    def json(self, *args, **kw):
        return json.loads(self.sink('--json', *args, **kw).out)

    def rpc(self, timeout=60):
        """A MessagePack-RPC client of the tests' own; see mprpc.py."""
        import mprpc
        c = mprpc.Client(self.socket, timeout=timeout * SLOW)
        self.clients.append(c)
        return c

    # ---- what most tests need ----

    def new(self, name='a', **settings):
        """A raw session with a fixed seed, small window and no stop by chance."""
        c = self.rpc()
        c.call('session.create', session=name, **{'sinks': 4, 'window': 28, 'raw': True, 'seed': 1, **settings})
        return c

    def events(self, name='a', from_seq=0):
        """All committed and staged events of a session."""
        c, out, at = self.rpc(), [], from_seq
        while True:
            r = c.call('session.read', session=name, **{'from': at})
            if not r['events']:
                c.close()
                return out
            out += r['events']
            at = r['next']

    def transcript(self, name='a'):
        return text_of(self.events(name))

    def idle(self, name='a', seconds=60):
        """Waits until nothing is queued or generated in a session; returns its info."""
        c = self.rpc()

        def settled():
            i = c.call('session.info', session=name)
            return i if i['state'] == 'idle' and not i.get('queued', 0) else None
        try:
            return wait_for(settled, seconds, f'session {name} idle')
        finally:
            c.close()

    # ---- the end ----

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                for c in self.clients:
                    c.close()
                self.stop()
                report = SANITIZER_REPORT.search(self.log_text())
                check(not report, 'report in the log:', report and report.group(0))
        except BaseException:
            kind = True
            raise
        finally:
            if kind is not None and kind is not SystemExit:
                self.show_log()
            self.cleanup()

    def show_log(self, n=60):
        if self.process and self.process.poll() is not None:
            print(f'the daemon ended with {self.process.returncode}', file=sys.stderr)
        if os.path.exists(self.log):
            print('---- the daemon\'s log, its end ----', file=sys.stderr)
            print('\n'.join(self.log_text().splitlines()[-n:]), file=sys.stderr)

    def cleanup(self):
        for p in self.started:
            if p.poll() is None:
                p.kill()
            p.wait()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def output(p, n, seconds=30):
    """The next n bytes of a process's standard output, within that many seconds.  Only for who reads all of it so."""
    out, end = b'', time.monotonic() + seconds * SLOW
    while len(out) < n:
        check(select.select([p.stdout], [], [], max(0, end - time.monotonic()))[0],
              f'{n} bytes: not within {seconds * SLOW} s, but', out)
        more = os.read(p.stdout.fileno(), n - len(out))
        check(more, f'{n} bytes: the output ended behind', out)
        out += more
    return out


class Output:
    def __init__(self, p):
        self.out, self.err, self.code = p.stdout, p.stderr.decode(errors='replace'), p.returncode
        self.text = self.out.decode(errors='replace')


def run_sinkd(*args, timeout=60, input=None):
    """The daemon's one-shot uses: --gguf, --tokenize, --check-config ..."""
    p = subprocess.run([SINKD, *map(str, args)], input=input or b'', stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=timeout * SLOW)
    check(p.returncode >= 0, f'sinkd {args} ended by signal', -p.returncode, p.stderr[-800:])
    check(not SANITIZER_REPORT.search(p.stderr.decode(errors='replace')), 'report:', p.stderr[-2000:])
    return Output(p)


def book(n=None, begin=0):
    """Plain English text for the tests, the same every time: n bytes of made-up prose."""
    if n is None:
        n = 4000
    words = ('the a garden river lamp of and stood under bright old stone window while people walked toward '
             'evening rain fell softly on roofs where nobody listened but birds kept singing about summer').split()
    out, size, x = [], 0, 12345
    while size < begin + n:
        x = (x * 1103515245 + 12345) & 0x7fffffff
        word = words[(x >> 16) % len(words)] + ('.\n' if x % 11 == 0 else ' ')
        out.append(word)
        size += len(word)
    return ''.join(out)[begin:begin + n].encode()
