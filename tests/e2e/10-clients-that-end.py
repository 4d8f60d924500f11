"""The client ends when it should, with all of its input: through a pipe with many lines, while an answer is made, with a
queue that is smaller than its pieces, without a standard input."""
import subprocess

from harness import SINK, SLOW, Daemon, check, check_equal, endless, wait_for


def said(d, name):
    return [e['text'] for e in d.events(name) if e['kind'] == 'text' and e['role'] == 'raw']


with Daemon('--max-queued-bytes', '16K', model=endless) as d:
    c = d.new('a', max_tokens=1)
    lines = [f'{i} of the lines of a text that is longer than what is read at once' for i in range(1000)]
    d.sink('attach', 'a', input=''.join(x + '\n' for x in lines).encode(), timeout=120)
    check_equal(said(d, 'a'), lines, 'lines')

    c.call('session.generate', session='a', max_tokens=500000)
    wait_for(lambda: c.call('session.info', session='a')['state'] == 'generating', what='generating')
    first = d.sink('read', 'a', timeout=30).out
    check(lines[-1].encode() in first, 'read ends while an answer is made')
    d.sink('attach', 'a', input=b'', timeout=30)
    check_equal(c.call('session.info', session='a')['state'], 'generating', 'state')
    check_equal(c.call('session.cancel', session='a')['cancelled'], True)

    c.call('session.create', session='q', raw=True)
    text = ''.join(f'{i}\n' for i in range(12000))
    d.sink('append', 'q', input=text.encode(), timeout=120)
    d.sink('append', 'q', 'x' * 20000 + '\n')
    d.idle('q')
    check_equal(d.transcript('q').decode(), text + 'x' * 20000 + '\n', 'text in pieces that the queue takes')

    for verb, code in (('append', 0), ('say', 2)):
        p = subprocess.run(['sh', '-c', '"$0" -S "$1" ' + verb + ' q <&-', SINK, d.socket], env=d.env, timeout=30 * SLOW,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        check_equal(p.returncode, code, f'{verb} without a standard input: {p.stderr}')
    check(b'sinkd_swap_bytes gauge' in d.sink('stats', '--prometheus').out, 'what can go down is a gauge')


def turns(d, name):
    """What was said, request by request."""
    requests = {}
    for e in d.events(name):
        if e['kind'] == 'text' and e['role'] == 'raw':
            requests.setdefault(e['request'], []).append(e['text'])
    return [''.join(x) for x in requests.values()]


# A line is one turn, however long; what no message holds is refused by name, and not cut.
MOST = (1 << 20) - 4096
with Daemon(model=endless) as d:
    d.new('a', max_tokens=1)
    lines = ['x' + 'é' * 40000, 'short', 'é' * (MOST // 2), 'x' * MOST]
    d.sink('attach', 'a', input='\r\n'.join(lines).encode(), timeout=120)
    check_equal([len(x) for x in turns(d, 'a')], [len(x) for x in lines], 'lengths of the turns')
    check_equal(turns(d, 'a'), lines, 'long lines')
    for text in 'x' * (MOST + 1), 'x' * (MOST + 1) + '\n', 'x' * (2 * MOST) + '\nshort':
        err = d.sink('attach', 'a', input=text.encode(), want=1).err
        check(err.startswith('sink: too_large: '), 'a line that is too long', err)
    check_equal(len(turns(d, 'a')), len(lines), 'turns after lines that were refused')
