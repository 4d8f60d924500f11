"""A MessagePack-RPC client in one class, written from proto/PROTOCOL.md alone: python3 and
its msgpack package, none of sinkd's code.

    c = Client('/run/user/1000/sinkd/sinkd.sock')
    c.call('session.create', session='a')
    c.call('session.append', session='a', text='Once upon a time')

Errors are raised as RpcError with .name and .message.  Notifications that arrive during a
call are kept for notification().
"""
import collections
import socket
import time

import msgpack


class RpcError(Exception):
    def __init__(self, error):
        if isinstance(error, dict):
            self.name, self.message = error['name'], error['message']
        else:
            self.name, _, self.message = str(error).partition(': ')
        super().__init__(f'{self.name}: {self.message}')


class Gone(ConnectionError):
    """The daemon closed the connection."""


class Client:
    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.timeout = timeout
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 26, unicode_errors='strict')
        self.id = 0
        self.answers = {}
        self.notifications = collections.deque()

    def close(self):
        self.socket.close()

    def send(self, method, **params):
        """Sends a request without waiting; its id goes to wait()."""
        self.id += 1
        self.socket.sendall(msgpack.packb([0, self.id, method, [params]]))
        return self.id

    def notify(self, method, **params):
        self.socket.sendall(msgpack.packb([2, method, [params]]))

    def receive(self, timeout=None):
        """Reads once and sorts the messages that are whole."""
        self.socket.settimeout(self.timeout if timeout is None else timeout)
        data = self.socket.recv(65536)
        if not data:
            raise Gone('the daemon closed the connection')
        self.unpacker.feed(data)
        for message in self.unpacker:
            if message[0] == 1:
                self.answers[message[1]] = message[2:]
            elif message[0] == 2:
                self.notifications.append((message[1], message[2][0]))

    def wait(self, id):
        while id not in self.answers:
            self.receive()
        error, result = self.answers.pop(id)
        if error is not None:
            raise RpcError(error)
        return result

    def pipeline(self, *calls):
        """Sends (method, parameters) one after the other, then waits: the results, or names of errors."""
        return [self.outcome(id) for id in [self.send(method, **params) for method, params in calls]]

    def outcome(self, id):
        try:
            return self.wait(id)
        except RpcError as e:
            return e.name

    def call(self, method, **params):
        return self.wait(self.send(method, **params))

    def notification(self, timeout=None):
        """The next (method, map), or None when none comes within timeout seconds."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self.notifications:
            left = end - time.monotonic()
            if left <= 0:
                return None
            try:
                self.receive(left)
            except TimeoutError:
                return None
        return self.notifications.popleft()
