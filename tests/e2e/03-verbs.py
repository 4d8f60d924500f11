"""Every verb of the client does what it says, for people and as JSON."""
import json
import subprocess

from harness import SLOW, Daemon, check, check_equal

with Daemon() as d:
    check_equal(d.json('ls')['sessions'], [])
    made = d.json('new', 'a', '--raw', '--sinks', 2, '--window', 20, '--seed', 9, '--temperature', 0.5, '--top-k', 20,
                  '--top-p', 0.9, '--min-p', 0.01, '--repeat-penalty', 1.2, '--stop', 'xyzzy')
    check_equal((made['session'], made['sinks'], made['window'], made['position']), ('a', 2, 20, 0))
    info = d.json('info', 'a')
    check_equal([info[k] for k in ('top_k', 'seed', 'stop', 'raw')], [20, 9, ['xyzzy'], True])
    check(abs(info['temperature'] - 0.5) < 1e-6 and abs(info['repeat_penalty'] - 1.2) < 1e-6, 'settings', info)

    d.sink('append', 'a', 'the cat sat')
    d.sink('append', 'a', input=b' on the mat\n')
    d.idle('a')
    check_equal(d.transcript('a').rstrip(b'\n'), b'the cat sat on the mat', 'what append kept')
    reply = d.sink('generate', 'a', '-n', 6).out
    check(reply, 'generated')
    check(d.sink('read', 'a').out.startswith(b'the cat sat on the mat'), 'read')
    lines = [json.loads(x) for x in d.sink('--json', 'read', 'a').out.splitlines()]
    check(len(lines) == 1 or all('kind' in x for x in lines), 'read --json', lines[:2])
    check(d.sink('ls').text.count('a') >= 1, 'ls')

    d.sink('append', 'a', 'word ' * 60)
    d.idle('a')
    show = d.json('show', 'a')
    check_equal((len(show['head_tokens']), len(show['window_tokens'])), (2, 21), 'tokens in show: the sinks, the window, the newest')
    check_equal(show['forgotten'], show['position'] - 23, 'forgotten')
    check(b'word word' in d.sink('show', 'a').out, 'show')
    check_equal(d.rpc().call('model.detokenize', tokens=show['window_tokens'])['text'], show['window'], 'show is the tokens')

    with open('/dev/full', 'wb') as full:
        p = d.sink_popen('show', 'a', stdout=full, stderr=subprocess.PIPE)
        check_equal((p.communicate(timeout=30 * SLOW)[1], p.returncode),
                    (b'sink: standard output: No space left on device\n', 1), 'show on a full disk')

    d.sink('set', 'a', 'temperature=0', 'max_tokens=5')
    check_equal([d.json('info', 'a')[k] for k in ('temperature', 'max_tokens')], [0, 5])
    check(d.sink('set', 'a', 'colour=red', want=None).code in (1, 2), 'an unknown setting')
    d.sink('rename', 'a', 'b')
    check_equal([s['session'] for s in d.json('ls')['sessions']], ['b'])
    d.sink('info', 'a', want=1)
    d.sink('cancel', 'b')
    d.sink('rm', 'b')
    check_equal(d.json('ls')['sessions'], [], 'after rm')
    d.sink('new', 'b', '--raw')
    check_equal(d.transcript('b'), b'', 'a new session of an old name is empty')

    score = json.loads(d.sink('score', '--per-token', '--window', 16, input=b'the cat sat on the mat').out)
    check_equal(len(score['per_token']), score['tokens'] - 1, 'scored tokens')
    check(score['nll'] > 0 and score['tokens_per_second'] > 0, 'score', score)
    info = d.json('info')
    check_equal(info['model']['arch'], 'llama')
    check(info['memory']['session'] > 0 and d.sink('info').text, 'info', info)
    stats = d.json('stats')
    check(stats['computed_tokens'] > 60 and stats['generated_tokens'] >= 6, 'stats', stats)
    check('computed_tokens' in d.sink('stats', '--prometheus').text, 'stats --prometheus')
    for verb in ('fork', 'rewind', 'export', 'import'):
        d.sink(verb, 'b', 'c', want=None)
    check(d.alive(), 'alive')
