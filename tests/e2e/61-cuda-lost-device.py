"""A device that fails inside a step is opened again, and answers go on with the very tokens that they would have had;
one that fails over and over is tried further and further apart, and ends the daemon with status 3, sessions whole; a
session or a score that always makes it fail is found out and set aside, and the others go on."""
from harness import *
import mprpc

CUDA = simulated()
FEW = few_rows(CUDA)
TOKENS = 60
LONG = 1000


def begin(d):
    c = d.new('a', window=60, seed=3, temperature=0.9, top_k=0)
    d.new('b', window=60, seed=4, temperature=0.9, top_k=0)
    for n in ('a', 'b'):
        c.call('session.append', session=n, text=book(200).decode())
        c.call('session.generate', session=n, max_tokens=TOKENS)
    return c


def fail(path):
    open(path, 'w').close()


class Failing:
    """Every kernel fails, as long as this lasts."""

    def __init__(self, path):
        self.path, self.stop = path, threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.stop.wait(0.001):
            fail(self.path)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if os.path.exists(self.path):
            os.unlink(self.path)


def texts(d):
    for n in ('a', 'b'):
        d.idle(n)
    return [d.transcript(n) for n in ('a', 'b')]


with Daemon(*FEW, model=endless) as d:
    c = begin(d)
    calm = texts(d)
    score = c.call('score', text=book(150).decode())['nll']

    c.call('session.create', session='bad', raw=True, sinks=4, window=60, seed=5, temperature=0.9)
    c.call('session.append', session='bad', text=book(LONG, 50).decode(), wait=True)
    c.call('session.generate', session='bad', max_tokens=TOKENS)
    end, n_vocab = d.idle('bad')['position'], c.call('server.info')['model']['n_vocab']
    calm_bad = d.transcript('bad')

with tempfile.TemporaryDirectory() as folder:
    bad = os.path.join(folder, 'fail')
    # In a prefill, and in the middle of an answer: each once, and who waits only waits longer.
    with Daemon(*FEW, model=endless, env={'CUSIM': 'fail:5,fail:600'}) as d:
        c = begin(d)
        check_equal(texts(d), calm, 'the texts after two failures')
        check_equal(c.call('server.stats')['device_failures'], 2, 'failures')
        log = d.log_text()
        check_equal(log.count('the device failed in a step: '), 2, 'the log names the failure')
        check_equal(log.count('the device is open again'), 2, 'the log says that it is open again')
        check('CUDA: ' in log, 'the error has its name', log[-600:])

    # In a product of cuBLAS; a cache that is made again, unless a checkpoint was in time, is announced.
    with Daemon(*CUDA, model=endless, env={'CUSIM': 'fail:cublasGemmEx:20'}) as d:
        reader = d.new('a', window=60, seed=3, temperature=0.9, top_k=0)
        reader.call('session.follow', session='a', **{'from': 0})
        for n in (200, 300):
            reader.call('session.append', session='a', text=book(n).decode())
            reader.call('session.generate', session='a', max_tokens=9)
        d.idle()
        check(len(d.transcript()) > 510, 'whole answers', d.transcript())
        stats = reader.call('server.stats')
        check_equal(stats['device_failures'], 1, 'failures in cuBLAS')
        check_equal(stats['rebuilt_sessions'] + stats['checkpoints_loaded'], 1, 'sessions that came back')
        check('the device failed in a step: cuBLAS: matmul: ' in d.log_text(), 'the log names cuBLAS', d.log_text()[-600:])
        states = [e['state'] for _, e in reader.notifications if e['kind'] == 'state']
        check_equal(states.count('rebuilt'), stats['rebuilt_sessions'], 'rebuilds that are announced')

    with Daemon(*FEW, model=endless, env={'CUSIM': f'failfile:{bad}'}) as d:
        fail(bad)
        again = d.rpc().call('score', text=book(150).decode())['nll']
        check(abs(again - score) < 1e-12, 'a score that begins again', again, score)
        check(not os.path.exists(bad), 'the score met a failure')

    # On and on: what needs no model is answered between the attempts, and a stop is a stop.
    with Daemon(*FEW, model=endless, env={'CUSIM': f'failfile:{bad}'}) as d:
        begin(d)
        with Failing(bad):
            wait_for(lambda: '(5 of 6 failures)' in d.log_text(), 60, 'attempts', step=0.1)
            c, began = d.rpc(), time.monotonic()
            check_equal(c.call('server.info')['state'], 'loading', 'state between attempts')
            check_equal(c.call('server.stats')['device_failures'], 1, 'failed steps')
            check(c.call('session.read', session='a')['events'], 'the log between attempts')
            c.close()
            d.stop()
            check(time.monotonic() - began < 4 * SLOW, 'eight seconds are not waited for', time.monotonic() - began)
            tried = d.log_text().count('the device is not to be had')
            check_equal(tried, 4, 'a line an attempt')
            d.start()
            wait_for(lambda: not d.alive(), 60, 'the end of a daemon whose device fails on and on', step=0.1)
            check_equal(d.process.returncode, 3, 'exit status')
            check('could not be opened again' in d.log_text(), 'the log says why', d.log_text()[-600:])
        d.start()
        got = texts(d)
        check(got == calm, 'the texts, made by three processes', got, calm)

# The device fails whenever it is given a certain position, which one session alone gets to; as a number it is no token.
at = end - TOKENS // 2
check(n_vocab < at, 'a position', n_vocab, at)
poison = {'CUSIM': 'failcopy:' + at.to_bytes(8, 'little').hex()}
with Daemon(*CUDA, '--chunk', 5, model=endless, env=poison) as d:     # three sessions: few rows, too
    c = begin(d)
    c.call('session.create', session='bad', raw=True, sinks=4, window=60, seed=5, temperature=0.9)
    c.call('session.append', session='bad', text=book(LONG, 50).decode())
    c.call('session.generate', session='bad', max_tokens=TOKENS)
    try:
        c.call('session.append', session='bad', text=' And on.', wait=True)
        raise Failed('an answer came that cannot be computed')
    except mprpc.RpcError as e:
        check_equal(e.name, 'session_set_aside', 'who waited for it is told')
    got = texts(d)
    check(got == calm, 'the texts of the others', got, calm)
    check_equal(c.call('server.stats')['device_failures'], 3, 'failures until it was found out')
    info = c.call('session.info', session='bad')
    check_equal(info['state'], 'set_aside', 'state')
    check('device' in info['why'], 'why', info)
    check(d.transcript('bad').startswith(book(LONG, 50)), 'its log is there')
    d.stop()
    d.env.pop('CUSIM')
    d.start()
    c = d.rpc()
    c.call('session.set', session='bad', model='current')
    d.idle('bad')
    got = d.transcript('bad')
    check(got == calm_bad + b' And on.', 'its text, once it could be computed', got, calm_bad)

with Daemon(*FEW, model=endless, env={'CUSIM': 'failcopy:' + (40).to_bytes(8, 'little').hex()}) as d:
    c = d.rpc()
    try:
        c.call('score', text=book(200).decode())
        raise Failed('a score came that cannot be computed')
    except mprpc.RpcError as e:
        check_equal(e.name, 'device_lost', 'who waited for the score is told')
    check_equal(c.call('server.stats')['device_failures'], 3, 'failures until it was found out')
    check(c.call('score', text=book(20).decode())['nll'] > 0, 'another score')
