"""The sections of tests/bench/run that take the daemon as its users do: started, asked over
its socket by the client, left alone.
"""
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from measure import named
from shared import figure

WORDS = ('the a garden river lamp of and stood under bright old stone window while people walked toward evening rain fell '
         'softly on roofs where nobody listened but birds kept singing about summer').split()


class Daemon:
    """One daemon in a folder of its own; self.ready_seconds: from exec to READY=1."""

    def __init__(self, bench, model, *args):
        self.b, self.dir = bench, tempfile.mkdtemp(prefix='sinkd-bench.')
        self.socket = os.path.join(self.dir, 's')
        notify_path = os.path.join(self.dir, 'n')
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(notify_path)
        notify.settimeout(120)
        with open(os.path.join(self.dir, 'log'), 'wb') as log:
            begin = time.monotonic()
            self.process = subprocess.Popen([bench.program('sinkd'), '--model', model, '--socket', self.socket, '--state',
                                             os.path.join(self.dir, 'state'), '--threads', '2', '--backend', 'cpu', *args],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, 'NOTIFY_SOCKET': notify_path})
        try:
            while b'READY=1' not in notify.recv(4096):
                pass
        except socket.timeout:
            self.close()
            raise subprocess.SubprocessError('the daemon was not ready within two minutes')
        self.ready_seconds = time.monotonic() - begin
        notify.close()

    def status(self, field):
        with open(f'/proc/{self.process.pid}/status') as f:
            return next(int(x.split()[1]) for x in f if x.startswith(field + ':'))

    def switches(self):
        """Times that its threads were scheduled."""
        count, at = 0, f'/proc/{self.process.pid}/task'
        for task in os.listdir(at):
            with open(f'{at}/{task}/status') as f:
                count += sum(int(x.split()[1]) for x in f if 'ctxt_switches' in x)
        return count

    def sink(self, *args, input=b''):
        return subprocess.run([self.b.program('sink'), '-S', self.socket, *args], input=input, check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600).stdout

    def new(self, name):
        self.sink('new', name, '--raw', '--seed', '1', *(['--sinks', '4', '--window', '60'] if self.b.o.quick else []))

    def append(self, name, text):
        """ASCII to an empty session, until it has been applied."""
        reader = subprocess.Popen([self.b.program('sink'), '-S', self.socket, '--json', 'read', name, '-f'],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            self.sink('append', name, input=text)
            left = len(text)
            for line in reader.stdout:
                event = json.loads(line)
                left -= len(event.get('text', ''))
                if event['kind'] == 'applied' and left <= 0:
                    return
        finally:
            reader.terminate()
            reader.wait()
            reader.stdout.close()

    def computed(self, name):
        info = json.loads(self.sink('--json', 'info', name))
        return info['computed'] >= info['position']

    def generate(self, name, n):
        return subprocess.Popen([self.b.program('sink'), '-S', self.socket, '--json', 'generate', name, '-n', str(n)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Listener(threading.Thread):
    """The moments at which an answer's tokens arrive, and those at which the engine made them (its own clock, to 1 ms)."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.times, self.made = process, [], []
        self.start()

    def run(self):
        for line in self.process.stdout:
            now = time.monotonic()
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get('kind') == 'text' and event.get('role') == 'assistant':
                self.times += [now] * event['tokens']
                self.made += [event['time'] / 1000] * event['tokens']


def endless(bench, folder):
    """The model without tokens that end an answer."""
    with open(bench.model('Q4_1'), 'rb') as f:
        data = f.read()
    for there, instead in ((b'<|im_end|>', b'<|im_xxx|>'), (b'<|endoftext|>', b'<|xxxoftext|>'),
                           (b'tokenizer.ggml.eos_token_id', b'tokenizer.ggml.xxx_token_id')):
        data = data.replace(there, instead)
    path = os.path.join(folder, 'endless.gguf')
    with open(path, 'wb') as f:
        f.write(data)
    return path


def prose(n):
    out, size, x = [], 0, 12345
    while size < n:
        x = (x * 1103515245 + 12345) & 0x7fffffff
        word = WORDS[(x >> 16) % len(WORDS)] + ('.\n' if x % 11 == 0 else ' ')
        out.append(word)
        size += len(word)
    return ''.join(out)[:n].encode()


def gaps(times):
    return [y - x for x, y in zip(times, times[1:])]


def latency_once(b, size, most):
    """({arrive, made: (gaps alone, gaps while a text is taken in, gaps until it is computed)}, seconds of both); most: seconds
    after which the rest of the computing is left out, as it goes on the same."""
    with tempfile.TemporaryDirectory(prefix='sinkd-bench.') as folder, Daemon(b, endless(b, folder)) as d:
        for name in ('reader', 'writer'):
            d.new(name)
        d.append('reader', prose(300 if b.o.quick else 9000))
        listener = Listener(d.generate('reader', 1000000))
        wait(lambda: len(listener.times) > (8 if b.o.quick else 200))
        first = len(listener.times) // 2
        middle = len(listener.times)
        begin = time.monotonic()
        d.append('writer', prose(size))
        taken, seconds = len(listener.times), [time.monotonic() - begin]
        while time.monotonic() - begin < most and not d.computed('writer'):
            time.sleep(0.5)
        seconds.append(time.monotonic() - begin - seconds[0])
        last = len(listener.times)
        listener.process.terminate()
        listener.process.wait()
    return {what: (gaps(at[first:middle]), gaps(at[middle:taken]), gaps(at[taken - 1:last]))
            for what, at in (('arrive', listener.times), ('made', listener.made))}, seconds


def latency(b):
    """Time between two tokens of a session, alone and while another appends a megabyte: it is taken in, and computed."""
    size, most = (20000, 10) if b.o.quick else (1000000, 25)
    found, seconds = b.alone(lambda: latency_once(b, size, most))
    for what, (alone, taking, computing) in found.items():
        during = taking + computing
        if len(during) < 2:
            b.missing('latency', f'tokens {what}, while another appends', 'the append was over before two tokens came')
            continue
        phases = (('alone', alone, ''), ('its text is taken in', taking, f'{size} bytes, {seconds[0]:.1f} s'),
                  ('it is computed', computing, f'{seconds[1]:.1f} s of it'))
        for name, at, note in phases:
            if at:
                b.add('latency', f'tokens {what}: apart, {name}', mean_of([1e3 * x for x in at]), unit='ms', note='mean' + ('; ' if note else '') + note)
        b.add('latency', f'tokens {what}: longest over the mean, alone', [max(alone) / statistics.mean(alone)], unit='times')
        b.add('latency', f'tokens {what}: longest over the mean, another appends', [max(during) / statistics.mean(during)], unit='times', most=2.0,
              note=f'{len(during)} tokens')


def mean_of(values):
    return {'median': statistics.mean(values), 'min': min(values), 'max': max(values), 'n': len(values)}


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise subprocess.SubprocessError('no tokens came')
        time.sleep(0.01)


def together_once(b):
    """Tokens a second of one and of eight."""
    n, said = 16 if b.o.quick else 128, []
    with tempfile.TemporaryDirectory(prefix='sinkd-bench.') as folder, Daemon(b, endless(b, folder)) as d:
        for count in (1, 8):
            names = [f's{count}-{k}' for k in range(count)]
            for name in names:
                d.new(name)
                d.append(name, b'Once')
            listeners = [Listener(d.generate(name, n)) for name in names]
            for x in listeners:
                x.join()
                x.process.wait()
            begin, end = min(x.times[0] for x in listeners), max(x.times[-1] for x in listeners)
            said.append((sum(len(x.times) for x in listeners) - count) / (end - begin))
    return said


def together(b):
    """Eight sessions against one, asked by eight clients over the socket."""
    answers = b.pair({'ours': lambda: together_once(b)}).get('ours', [])
    one, eight = [x[0] for x in answers], [x[1] for x in answers]
    b.add('together', 'one session, through the daemon', one)
    b.add('together', 'eight sessions, through the daemon', eight)
    b.add('together', 'eight over one, through the daemon', [y / x for x, y in zip(one, eight)], unit='times', least=4.0)


def load(b):
    """From exec to ready, the file in the page cache; what is resident then."""
    path = b.model('Q4_1')
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        while f.read(1 << 20):
            pass
    resident = []

    def ours():
        with Daemon(b, path) as d:
            resident.append(d.status('VmRSS') * 1024)
            return d.ready_seconds
    a = b.pair({'ours': ours, **{name: lambda name=name: b.peer(name, path, []) for name in b.peers}})
    seconds = a.get('ours', [])
    peers = {name: a.get(name, []) for name in b.peers}
    b.add('load', f'{named("Q4_1")}, exec to ready, s', seconds, {k: [x['load_seconds'] for x in v] for k, v in peers.items()}, unit='s',
          most=0.25, better=min, note='peers: model and context only, no process; less is better')
    b.add('load', 'resident when ready, MB', [x / 1e6 for x in resident], unit='MB', better=min, note='peers: with Python; less is better',
          peers={k: [x['resident_bytes'] / 1e6 for x in v] for k, v in peers.items()})
    b.add('load', 'resident over the file', [x / size for x in resident], unit='times', most=1.3)


def idle(b):
    """A daemon that nobody asks: wake-ups, and what is resident."""
    path, seconds = b.model('Q4_1'), 2 if b.o.quick else 20
    with Daemon(b, path) as d:
        d.new('a')
        d.append('a', b'Hello.')
        time.sleep(1.5)                    # what was begun is over
        before = d.switches()
        time.sleep(seconds)
        woken, resident = d.switches() - before, d.status('VmRSS') * 1024
    b.add('idle', f'wake-ups in {seconds} s', [woken], unit='', most=0, note='no watchdog is set here')
    b.add('idle', 'resident over the file', [resident / os.path.getsize(path)], unit='times', most=1.3)
    return figure([woken])
