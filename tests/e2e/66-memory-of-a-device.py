"""On a device with memory of its own (the simulated one): what the model and the slots take is printed before it is
allocated, and is what is taken, to the byte; as many slots as fit; a model that does not fit is refused by name, or runs
on the CPU; sessions beyond the slots, SIGKILL and unloading as on the CPU."""
from harness import *

MODULE = os.path.join(os.path.dirname(SINKD), 'sinkd-cusim.so')
if not os.path.exists(MODULE):
    skip('no simulated CUDA module')
CUDA = few_rows(('--backend', 'cuda', '--cuda-module', MODULE, '--window', 28))
NAMES = [f's{i}' for i in range(4)]


def device(memory='1G', *args, backend=CUDA, **kw):
    return Daemon(*backend, *args, env={'CUSIM': f'memory:{memory}'}, model=endless, **kw)


def play(d, rounds):
    c = d.rpc()
    for i, n in enumerate(NAMES):
        c.call('session.create', session=n, raw=True, seed=i + 1, temperature=0.9)
        c.call('session.append', session=n, text=book(60, 100 * i).decode(), wait=True)
    for _ in range(rounds):
        for n in NAMES:
            c.call('session.generate', session=n, max_tokens=3)
        for n in NAMES:
            d.idle(n)
    return [d.transcript(n) for n in NAMES]


def memory_of(d):
    m = d.rpc().call('server.info')
    return m['memory'], m['limits']['slots']


# As many as fit, up to 64; exactly what was computed.
with device() as d:
    line = re.search(r'memory: weights [\d.]+ \w+, work [\d.]+ \w+, (\d+) slots? of [\d.]+ \w+; [\d.]+ \w+ of 1.0 GiB', d.log_text())
    check(line, 'the line of the budget')
    m, slots = memory_of(d)
    check_equal([int(line[1]), slots], [64, 64], 'slots')
    check_equal(m['taken'], m['computed'], 'memory taken and computed')
    check_equal(m['computed'], m['weights'] + m['work'] + m['slots'], 'the sum')
    check(m['limit'] <= 0.9 * (1 << 30) and m['total'] == 1 << 30, 'limit and total', m)
    alone = play(d, 2)
    check_equal(d.rpc().call('server.stats')['slots_evicted'], 0, 'slots taken from anybody')
    slot = m['slots'] // 64
    fixed = m['weights'] + m['work']

# Two fit: the others wait in pinned memory; and again after the device was given back.
with device('1G', '--gpu-memory', fixed + 2 * slot + slot // 2, '--swap-memory', '64M', '--unload-after', 1) as d:
    m, slots = memory_of(d)
    check_equal([slots, m['taken']], [2, m['computed']], 'slots, memory taken')
    for got, want in zip(play(d, 1), alone):
        check(len(got) > 60 and want.startswith(got), 'the texts', got, want)
    stats = d.rpc().call('server.stats')
    check(stats['swapped_in'] >= 2 and stats['checkpoints_loaded'] == 0, 'from pinned memory', stats)
    d.restart(signal.SIGKILL)      # two of them are in pinned memory, which ends here
    c = d.rpc()
    wait_for(lambda: c.call('server.info')['state'] == 'unloaded', 30, 'unloaded')
    for n in NAMES:
        c.call('session.generate', session=n, max_tokens=3)
    for n in NAMES:
        d.idle(n)
    check_equal([d.transcript(n) for n in NAMES], alone, 'texts after the return')
    m, slots = memory_of(d)
    check_equal([slots, m['taken']], [2, m['computed']], 'slots, memory taken again')

# --slots is the most.
with device('1G', '--slots', 3) as d:
    m, slots = memory_of(d)
    check_equal([slots, m['taken']], [3, m['computed']], 'slots that were asked for')

# Not even one: by name and with the numbers; auto goes to the CPU and says so.
d = device('1G', '--gpu-memory', max(1 << 20, fixed // 2), start=False)
try:
    d.start(ready=False)
    check_equal(d.process.wait(60 * SLOW), 1, 'exit status')
    check(re.search(r'memory: the model needs [\d.]+ \w+ and a session [\d.]+ \w+', d.log_text()), 'the reason', d.log_text())
finally:
    d.cleanup()
with device('1G', '--gpu-memory', max(1 << 20, fixed // 2), backend=('--backend', 'auto', *CUDA[2:])) as d:
    check('cpu' in d.rpc().call('server.info')['backend'], 'the CPU computes')
    check(re.search(r'backend cuda is not used, cpu computes: the model needs', d.log_text()), 'and the log says why')

# A cache that cannot be copied from the device, or to it: it is opened again, and the answers are what they were.
with tempfile.TemporaryDirectory() as folder:
    bad = os.path.join(folder, 'fail')
    with Daemon(*CUDA, '--slots', 2, '--swap-memory', '64M', model=endless,
                env={'CUSIM': f'failfile:cudaMemcpyAsync:{bad}'}) as d:
        play(d, 1)
        c = d.rpc()

        def fail_with(name):
            open(bad, 'w').close()
            c.call('session.generate', session=name, max_tokens=3)
            d.idle(name)
            check(not os.path.exists(bad), 'a copy failed')
        fail_with(NAMES[0])            # another one leaves its slot for it
        check('a cache could not be copied from it' in d.log_text(), 'copied from', d.log_text()[-600:])
        c.call('session.generate', session=NAMES[1], max_tokens=3)
        d.idle(NAMES[1])
        c.call('session.create', session='x', raw=True)
        c.call('session.append', session='x', text='x', wait=True)
        c.call('session.create', session='y', raw=True)
        c.call('session.append', session='y', text='y', wait=True)
        c.call('session.delete', session='x')
        fail_with(NAMES[0])            # into the slot that is free
        check('a cache could not be copied to it' in d.log_text(), 'copied to', d.log_text()[-600:])
        check_equal(c.call('server.stats')['device_failures'], 2, 'failures')
        got = [d.transcript(n) for n in NAMES[:2]]
        check(got[0].startswith(alone[0]) and got[1] == alone[1], 'the texts', got, alone)
