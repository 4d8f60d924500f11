"""A whole conversation with python3-msgpack and PROTOCOL.md alone: none of our client code."""
import socket

import msgpack

from harness import Daemon, check, check_equal


class Foreign:
    """What anyone would write in twenty lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.unpacker, self.id, self.notes = msgpack.Unpacker(), 0, []

    def message(self):
        for m in self.unpacker:
            return m
        data = self.socket.recv(65536)
        check(data, 'the daemon closed the connection')
        self.unpacker.feed(data)
        return self.message()

    def call(self, method, *params):
        self.id += 1
        self.socket.sendall(msgpack.packb([0, self.id, method, list(params)]))
        while True:
            m = self.message()
            if m[0] == 2:
                self.notes.append(m)
                continue
            check_equal(m[:2], [1, self.id], 'kind and id')
            return m[2], m[3]

    def ok(self, method, *params):
        error, result = self.call(method, *params)
        check_equal(error, None, method)
        return result


with Daemon() as d:
    f = Foreign(d.socket)
    hello = f.ok('hello', {'client': 'foreign', 'protocol': 1})
    check_equal(hello['protocol'], 1)
    check('bitwise' in hello['features'], 'features', hello['features'])

    # No parameters: a list of nothing, of an empty list, of nil.
    for params in ((), ([],), (None,), ({},)):
        check_equal(f.ok('session.list', *params)['sessions'], [], 'no sessions yet')

    f.ok('session.create', {'session': 'talk', 'seed': 5, 'max_tokens': 24})
    f.ok('session.follow', {'session': 'talk', 'from': 0})
    f.ok('session.say', {'session': 'talk', 'text': 'Hello there.'})
    events, at = [], 0
    while not any(e['kind'] == 'turn' and e['state'] == 'end' for e in events):
        r = f.ok('session.read', {'session': 'talk', 'from': at, 'wait_ms': 10000})
        events, at = events + r['events'], r['next']
        check('durable' in r, 'a read says what is durable')
    user = ''.join(e['text'] for e in events if e['kind'] == 'text' and e['role'] == 'user')
    check_equal(user, 'Hello there.')
    check(''.join(e['text'] for e in events if e['kind'] == 'text' and e['role'] == 'assistant'), 'an answer')
    seqs = [e['seq'] for e in events]
    check_equal(seqs, list(range(seqs[0], seqs[0] + len(seqs))), 'seqs without a gap')

    # The same came as notifications.
    f.ok('session.unfollow', {'session': 'talk'})
    told = [m[2][0] for m in f.notes if m[1] == 'session.event' and m[2][0].get('seq')]
    check_equal([(e['seq'], e.get('text')) for e in told], [(e['seq'], e.get('text')) for e in events], 'notifications')

    # Errors are strings "name: message", or maps when asked for.
    error, result = f.call('session.info', {'session': 'nobody'})
    check(result is None and error.startswith('no_session: '), 'error', error)
    f.ok('hello', {'errors': 'map'})
    for method, params, name in (('session.info', {'session': 'nobody'}, 'no_session'),
                                 ('session.info', {'session': 'talk', 'colour': 'red'}, 'bad_param'),
                                 ('session.info', {'session': 7}, 'bad_param'),
                                 ('session.info', {}, 'bad_param'),
                                 ('session.paint', {}, 'no_method'),
                                 ('session.create', {'session': 'talk'}, 'session_exists'),
                                 ('session.create', {'session': '../up'}, 'bad_name')):
        error, _ = f.call(method, params)
        check(error and error['name'] == name and error['message'] and error['code'] > 0, f'{method} {params}', error)
    error, _ = f.call('session.info', {'session': 'talk', 'colour': 'red'})
    check('colour' in error['message'], 'an unknown key is named', error)

    # Unknown notifications are ignored.
    f.socket.sendall(msgpack.packb([2, 'some.thing', [{}]]))
    check_equal(f.ok('session.list')['sessions'][0]['session'], 'talk')
    f.ok('session.delete', {'session': 'talk'})
    check_equal(f.ok('session.list')['sessions'], [], 'deleted')
    f.socket.close()
