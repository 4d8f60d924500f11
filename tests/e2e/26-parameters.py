"""Every method refuses every parameter of a wrong type, what it does not know, and what
is missing, by name; the types come from the tables of PROTOCOL.md, not from our code."""
from harness import *
import mprpc
import msgpack

WRONG = {   # by type: values that are none
    'bool': [1, 'true', None], 'uint': [-1, 1.5, '1', None, True], 'real': ['1', None, True, [1]],
    'name': [1, None, ['a'], b'bin'], 'text': [1, None, ['a'], {}], 'key': [1, '', 'k' * 65, None, []],
    'ids': [1, 'a', [-1], ['a'], [1.5], [2 ** 31], None], 'texts': [1, None, [1], [[]], ['']],
}
GOOD = {'session': 'none', 'new_name': 'none2', 'text': 'x', 'tokens': [1], 'from': 1}


def methods():
    """{method: {parameter: (type, needed)}} as PROTOCOL.md has it."""
    out, method = {}, None
    for line in open(os.path.join(SRCDIR, 'proto/PROTOCOL.md')):
        head = re.match(r'### ([a-z][\w.]*)$', line)
        row = re.match(r'\| `(\w+)`(\*?) \| (\w+) \|', line)
        if head:
            method = out[head.group(1)] = {}
        elif line.startswith('#'):
            method = None
        elif row and method is not None and row.group(3) in WRONG:
            method[row.group(1)] = row.group(3), bool(row.group(2))
    return out


def refused(c, method, params):
    try:
        c.call(method, **params)
    except mprpc.RpcError as e:
        return e
    raise Failed(f'{method} {params} was not refused')


with Daemon() as d:
    c = d.rpc()
    table = {m: p for m, p in methods().items() if m not in ('server.info', 'server.stats', 'session.list')}
    check(len(table) >= 20, 'methods in PROTOCOL.md', len(table))
    for method in ('session.fork', 'session.rewind', 'session.export', 'session.import'):
        table.pop(method)
        check_equal(str(refused(c, method, {'session': 'a'})), f'not_finished: this version does not have {method} yet', method)
    for method, name in (('session.fly', 'session.fly'), ('a\nb\x1bc é', 'a?b?c???'), ('', ''), ('m' * 200, 'm' * 39)):
        check_equal(str(refused(c, method, {})), f'no_method: no method {name}', 'an unknown method')
    tried = 0
    for method, params in table.items():
        good = {k: GOOD[k] for k, (_, needed) in params.items() if needed}
        for key, (kind, needed) in params.items():
            for wrong in WRONG[kind]:
                e = refused(c, method, {**good, key: wrong})
                check(e.name == 'bad_param' and key in e.message, f'{method} {key}={wrong!r}', str(e))
                tried += 1
            if needed:
                e = refused(c, method, {k: v for k, v in good.items() if k != key})
                check(e.name == 'bad_param' and key in e.message, f'{method} without {key}', str(e))
        e = refused(c, method, {**good, 'sesion': 1})
        check(e.name == 'bad_param' and 'sesion' in e.message, f'{method} with an unknown key', str(e))
    check(tried > 200, 'values tried', tried)

    for name in ('', '.a', 'a/b', 'a b', 'é', 'a' * 65, 'a\0', '-a', 'a:b:c', ':a', '0:'):
        e = refused(c, 'session.info', {'session': name})
        check(e.name in ('bad_name', 'no_session'), f'name {name!r}', str(e))
    for name in ('nobody-of-this-name:a', '99999999999999:a', '0x0:a', '4294967295:a'):
        check_equal(str(refused(c, 'session.info', {'session': name})), f'no_session: no session {name}', name)
    for key, bad in (('temperature', float('nan')), ('temperature', -1), ('top_p', 1.5), ('min_p', float('inf')),
                     ('repeat_penalty', 0), ('window', 0), ('max_tokens', 0), ('stop', ['x'] * 9), ('stop', 'x' * 129),
                     ('share', 'all'), ('top_k', 2 ** 40)):
        e = refused(c, 'session.create', {'session': 'b', key: bad})
        check(e.name == 'bad_param' and key in e.message, f'{key}={bad}', str(e))
    check_equal(c.call('session.list')['sessions'], [], 'sessions after all that')

    # Text that claims to be UTF-8 and is not; the same as bin is fine.  msgpack would not
    # write it: by hand.
    c.call('session.create', session='stops')
    for method, key, params in (('model.tokenize', 'text', {}), ('session.append', 'text', {'session': 'stops'}),
                                ('session.set', 'stop', {'session': 'stops'}), ('session.create', 'system', {'session': 'b'})):
        raw = msgpack.packb([0, 77, method, [{**params, key: 'QQ'}]]).replace(b'\xa2QQ', b'\xa2\xff\xfe')
        c.socket.sendall(raw)
        try:
            c.wait(77)
            raise Failed(f'{key} of {method} that is not UTF-8 was taken as str')
        except mprpc.RpcError as e:
            check(e.name == 'bad_param' and key in e.message and 'UTF-8' in e.message, f'{key} that is not UTF-8', str(e))
    check(c.call('model.tokenize', text=b'\xff\xfe')['tokens'] != [], 'bytes')
    c.call('session.set', session='stops', stop=[b'\xff\xfe', 'é'])
    check_equal(c.call('session.info', session='stops')['stop'], [b'\xff\xfe', 'é'], 'stop strings')
    c.call('session.delete', session='stops')

    # A key twice, in a map that no dict can be.
    twice = b'\x94\x00\x4e\xacsession.info\x91\x82\xa7session\xa1a\xa7session\xa1a'
    c.socket.sendall(twice)
    try:
        c.wait(78)
        raise Failed('a key given twice was taken')
    except mprpc.RpcError as e:
        check('twice' in e.message, 'a key twice', str(e))

    # The empty map, spelled in all ways; and what is no map.
    for i, params in enumerate(([], [[]], [None], [{}])):
        c.socket.sendall(msgpack.packb([0, 1000 + i, 'session.list', params]))
        check_equal(c.wait(1000 + i), {'sessions': []}, f'parameters {params}')
    c.socket.sendall(msgpack.packb([0, 2000, 'session.list', [1]]))
    try:
        c.wait(2000)
        raise Failed('a number as parameters')
    except mprpc.RpcError as e:
        check_equal(e.name, 'parse', 'a number as parameters')
    c.notify('session.append', session='a', text='x')      # ignored
    c.notify('no.such.thing')
    c.socket.sendall(msgpack.packb([1, 5, None, {}]))       # so is a response
    check_equal(c.call('hello', errors='map', protocol=1, client='tests')['protocol'], 1, 'hello')
    e = refused(c, 'session.info', {'session': 'none'})
    check_equal(e.name, 'no_session', 'an error as a map')
