"""Requests on one session are done in the order they came; a repeated key adds nothing twice, also after SIGKILL."""
from harness import Daemon, check, check_equal

with Daemon() as d:
    c = d.new('a')
    ids = [c.send('session.generate', session='a', max_tokens=200, key='g')]
    ids += [c.send('session.append', session='a', text=f'<{i}>', key=f'k{i}') for i in range(20)]
    ids.append(c.send('session.append', session='a', text='<last>', wait=True))
    replies = [c.wait(i) for i in ids]
    requests = [r['request'] for r in replies]
    check_equal(requests, sorted(set(requests)), 'numbers of requests')
    events = d.events('a')
    check_equal([e['text'] for e in events if e['kind'] == 'text' and e['role'] == 'raw' and e['request'] != requests[0]],
                [f'<{i}>' for i in range(20)] + ['<last>'], 'order')
    applied = [e['request'] for e in events if e['kind'] == 'applied']
    check_equal(applied, requests[1:], 'applied, in order')

    position = d.idle('a')['position']
    for again in range(2):
        for i in (0, 7, 19):
            r = c.call('session.append', session='a', text=f'<{i}>', key=f'k{i}')
            check_equal(r['request'], requests[1 + i], 'the first reply again')
        check_equal(c.call('session.generate', session='a', max_tokens=200, key='g'), replies[0], 'of an answer: where to read it, though it is over')
        r = c.call('session.append', session='a', text='<3>', key='k3', wait=True)
        check_equal(r['request'], requests[4], 'a repeated wait')
        check_equal(d.idle('a')['position'], position, 'nothing was added')
        d.kill()
        d.start()
        c = d.rpc()
    check_equal(c.call('session.append', session='a', text='new', key='other', wait=True)['request'] > requests[-1], True)
    check(d.idle('a')['position'] > position, 'another key adds')
