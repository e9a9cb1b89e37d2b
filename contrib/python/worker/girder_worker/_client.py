"""The daemon's HTTP API over its Unix socket."""
import http.client
import json
import os
import socket
from urllib.parse import quote, urlencode

from .exceptions import WorkerError

DEFAULT_SOCKET = '/run/girder-worker/girder-worker.sock'


def socket_path():
    """Where the daemon listens: GIRDER_WORKER_SOCKET, or the usual place."""
    return os.environ.get('GIRDER_WORKER_SOCKET') or DEFAULT_SOCKET


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__('girder-worker', timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self.path)
        except OSError as e:
            self.sock.close()
            hint, kind = 'is the daemon running?', 'not-running'
            if isinstance(e, PermissionError):
                hint, kind = 'users of the daemon are in the group girder-worker', 'no-permission'
            raise WorkerError('cannot reach girder-worker at %s: %s; %s' % (self.path, e.strerror or e, hint), kind) from e


class Client:
    """One daemon. timeout is in seconds, for calls that do not wait for a job."""

    def __init__(self, path=None, timeout=60):
        self.path, self.timeout = path or socket_path(), timeout

    def call(self, method, route, body=None, query=None, wait=None):
        """The decoded answer. wait is how long it may take beyond the usual."""
        connection = _Connection(self.path, None if wait == float('inf') else self.timeout + (wait or 0))
        if query:
            route += '?' + urlencode(query)
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            connection.request(method, route, data, {'Content-Type': 'application/json'} if data else {})
            response = connection.getresponse()
            answer = response.read()
        except (http.client.HTTPException, OSError) as e:
            raise WorkerError('cannot talk to girder-worker at %s: %s' % (self.path, e), 'lost') from e
        finally:
            connection.close()
        try:
            decoded = json.loads(answer) if answer else None
        except ValueError:
            decoded = None
        if response.status >= 300:
            error = (decoded or {}).get('error', {}) if isinstance(decoded, dict) else {}
            raise WorkerError(error.get('message') or 'girder-worker answered %d' % response.status,
                              error.get('kind'), error.get('field'))
        return decoded

    def submit(self, call):
        """Hands in a call of a task and returns the job."""
        return self.call('POST', '/v1/calls', call)

    def job(self, id):  # noqa: A002
        return self.call('GET', '/v1/jobs/' + quote(id, safe=''))

    def result(self, id, wait=0):  # noqa: A002
        """How a job stands, after waiting for its end for up to wait seconds."""
        return self.call('GET', '/v1/jobs/%s/result' % quote(id, safe=''), query={'wait': '%gs' % wait} if wait else None, wait=wait)

    def cancel(self, id, reason=''):  # noqa: A002
        return self.call('POST', '/v1/jobs/%s/cancel' % quote(id, safe=''), {'reason': reason} if reason else {})

    def tasks(self):
        return self.call('GET', '/v1/tasks')
