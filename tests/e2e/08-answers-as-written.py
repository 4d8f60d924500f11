"""The keys of real answers and events are those of proto/PROTOCOL.md, neither more nor less."""
import json
import os
import re
import struct

from harness import SRCDIR, Daemon, check, check_equal

with open(os.path.join(SRCDIR, 'proto/PROTOCOL.md'), encoding='utf-8') as f:
    PAGE = f.read()


def part(heading):
    """What stands under a heading."""
    return re.split(r'\n#{1,3} ', PAGE.split(f'\n### {heading}\n', 1)[1], maxsplit=1)[0]


def rows(text):
    """Tables' rows with keys in the first cell: {key: the other cells}."""
    out = {}
    for line in text.splitlines():
        cells = [x.strip() for x in line.strip('|').split(' | ')]
        if line.startswith('| `'):
            out.update({k: cells[1:] for k in re.findall(r'`(\w+)`', cells[0])})
    return out


def answer(method):
    """Keys of the first `{...}` after Answer:"""
    m = re.search(r'Answer: `\{(.*?)\}`', part(method))
    return set(re.findall(r'(\w+)(?:: \[\w+, \.\.\.\])?', m.group(1))) - {'map'}


SESSION = set(rows(part('The session map').split('| state |')[0])) - {'why'}
BESIDES = set(re.findall(r'`(\w+)`', part('The session map').split('has besides:')[1]))
EVENT = rows(part('Events').split('| kind |')[0])
check(len(SESSION) > 12 and len(BESIDES) > 10 and len(EVENT) > 12, 'the page was read')


def event_keys(kind, state=None):
    """Keys of an event of a kind, request and bytes aside."""
    out = set()
    for key, (_, where, *_) in EVENT.items():
        where, _, but = where.partition(' but ')
        if where == 'all' or (re.search(rf'\b{kind}\b', where) and (state == 'end' or 'end' not in where)):
            if f'`{state}`' not in but:
                out.add(key)
    return out - {'bytes', 'request'}


# The examples on the page have them too.
asked = {}
for kind, id, *rest in map(json.loads, re.findall(r'^    (?:->|<-) (\[.*\])$', PAGE, re.M)):
    if kind == 0:
        asked[id] = rest[0]
    elif kind == 1 and rest[0] is None:
        want = SESSION if asked[id] == 'session.create' else answer(asked[id])
        check_equal(set(rest[1]), want, f'the example of {asked[id]}')
check(len(asked) > 6, 'examples were read')

with Daemon() as d:
    c = d.rpc()

    def keys(method, **params):
        return set(c.call(method, **params))

    check_equal(keys('hello', client='test'), answer('hello'), 'hello')
    check_equal(keys('session.create', session='a', sinks=4, window=28, raw=True, seed=1), SESSION, 'session.create')
    check_equal(keys('session.append', session='a', text='once upon a time', wait=True),
                {'request', 'seq', 'position'}, 'session.append, wait')
    check_equal(keys('session.append', session='a', text='there was'), answer('session.append'), 'session.append')
    check_equal(keys('session.generate', session='a', max_tokens=40), answer('session.generate'), 'session.generate')
    check_equal(keys('session.say', session='a', text='and then', max_tokens=4), answer('session.generate'), 'session.say')
    d.idle('a')
    check_equal(keys('session.info', session='a'), SESSION | BESIDES, 'session.info')
    check_equal(keys('session.set', session='a', seed=2, temperature=0.7), SESSION, 'session.set')
    check_equal(c.call('session.info', session='a')['temperature'], struct.unpack('f', struct.pack('f', 0.7))[0], 'a real')
    check_equal(keys('session.list'), {'sessions'}, 'session.list')
    check_equal(set(c.call('session.list')['sessions'][0]), SESSION, 'session.list')
    check_equal(keys('session.read', session='a', **{'from': 1}), answer('session.read'), 'session.read')
    check_equal(keys('session.follow', session='a'), answer('session.follow'), 'session.follow')
    check_equal(keys('session.unfollow', session='a'), set(), 'session.unfollow')
    check_equal(keys('session.cancel', session='a'), answer('session.cancel'), 'session.cancel')
    check_equal(keys('session.show', session='a') - {'head_bytes', 'window_bytes'}, answer('session.show'), 'session.show')
    check_equal(keys('score', text='once upon a time', per_token=True), answer('score') | {'per_token'}, 'score')
    check_equal(keys('model.tokenize', text='once'), answer('model.tokenize'), 'model.tokenize')
    check_equal(keys('model.detokenize', tokens=[70, 71]) - {'bytes'}, answer('model.detokenize'), 'model.detokenize')
    check_equal(keys('server.stats'), set(rows(part('server.stats'))), 'server.stats')
    info = rows(part('server.info'))
    check_equal(keys('server.info'), set(info) - {'why'}, 'server.info')
    for key in ('model', 'memory', 'limits'):
        listed = set(re.findall(r'\w+', re.search(r'`\{(.*?)\}`', info[key][1]).group(1)))
        check_equal(set(c.call('server.info')[key]), listed, f'server.info, {key}')

    kinds = set()
    for e in d.events('a'):
        kinds.add(e['kind'])
        got = set(e) - {'request', 'bytes'}
        check_equal(got, event_keys(e['kind'], e.get('state')), f'an event {e["kind"]} {e.get("state")}')
    check_equal(kinds, {'text', 'turn', 'applied'}, 'kinds in the log')
    c.call('session.follow', session='a')
    check_equal(keys('session.rename', session='a', new_name='b'), SESSION, 'session.rename')
    check_equal(keys('session.delete', session='b'), set(), 'session.delete')
    news = [e for _, e in c.notifications]
    check_equal(news[-1]['state'], 'deleted', 'the last event')
    for e in news:
        check_equal(set(e), event_keys(e['kind'], e.get('state')), f'news {e["kind"]} {e.get("state")}')
