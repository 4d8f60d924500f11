"""Requests on one session are done in the order they came, be it one that is being made or deleted; a repeated key adds
nothing twice, also after SIGKILL."""
from harness import Daemon, check, check_equal, wait_for
from mprpc import RpcError

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

    # Made, renamed and deleted, all sent without waiting.
    def on(name, verb, **params):
        return f'session.{verb}', {'session': name, **params}

    seen = c.pipeline(on('p', 'create', raw=True), on('p', 'append', text='one', wait=True), on('p', 'info'), on('p', 'create'))
    check(seen[1]['request'] > 0 and seen[2]['session'] == 'p' and seen[3] == 'session_exists', 'made, and used at once', seen)
    seen = c.pipeline(on('p', 'delete'), on('p', 'append', text='two'), on('p', 'create', raw=True), on('p', 'info'))
    check(seen[:2] == [{}, 'no_session'] and seen[2]['seq'] == seen[3]['seq'] == 0, 'deleted, and made again', seen)
    seen = c.pipeline(on('q', 'create', raw=True), on('p', 'delete'), on('q', 'rename', new_name='p'),
                      on('p', 'append', text='three', wait=True), on('q', 'info'), on('p', 'cancel'))
    check(seen[2]['session'] == 'p' and seen[3]['request'] > 0, 'renamed to a name that is deleted', seen)
    check_equal(seen[4:], ['no_session', {'cancelled': False}], 'behind the renaming')
    check_equal(c.pipeline(on('p', 'delete'), on('p', 'delete')), [{}, 'no_session'], 'deleted twice')
    seen = c.pipeline(on('r', 'create', raw=True), on('r', 'append', text='four'), on('r', 'set', max_tokens=5),
                      on('r', 'append', text='five', wait=True), on('r', 'delete'))
    check('request' in seen[1] and 'session' in seen[2], 'what was sent before the deletion', seen)
    check_equal(seen[3:], ['no_session', {}], 'what was to be waited for until it is applied')
    check_equal([s['session'] for s in c.call('session.list')['sessions']], ['a'], 'sessions left')

    # What waits for a session that is being made ends with its client, or is done without it.
    other = d.rpc()
    for method, params in (on('p', 'create', raw=True), on('p', 'append', text='kept'),
                           on('p', 'generate', max_tokens=500000, until_disconnect=True), on('p', 'read', wait_ms=60000)):
        other.send(method, **params)
    other.close()
    wait_for(lambda: 'kept' in str(c.pipeline(on('p', 'read'))), what='appended by one who has left')
    d.idle('p')

# What was accepted is answered again, however much is queued or kept by now; something new is not.
for cap, text in (('queued', 'x' * 40000), ('stored', 'y' * 60000)):
    with Daemon(f'--max-{cap}-bytes', '64K' if cap == 'queued' else '200K') as d:
        c = d.new('a')
        if cap == 'queued':
            c.call('session.generate', session='a', max_tokens=100000)
        first, name = [], None
        while name is None and len(first) < 10:
            try:
                first.append(c.call('session.append', session='a', text=text, key=f'k{len(first)}', wait=cap == 'stored')['request'])
            except RpcError as e:
                name = e.name
        check_equal(name, f'cap_{cap}', 'what does not fit')
        again = [c.call('session.append', session='a', text=text, key=f'k{i}')['request'] for i in range(len(first))]
        check_equal(again, first, 'the same requests, repeated')
        c.call('session.cancel', session='a')
        d.idle('a')
        check_equal(sum(e['kind'] == 'applied' for e in d.events('a')), len(first), 'added')
        for name, n in (('big', 70000), ('small', 200)):
            try:
                c.call('session.create', session=name, raw=True, system='z' * n)
                check(name == 'small' and cap == 'queued', 'made', cap, name)
            except RpcError as e:
                check_equal(e.name, f'cap_{cap}', f'a system prompt of {n} bytes')
