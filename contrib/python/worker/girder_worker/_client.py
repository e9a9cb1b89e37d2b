"""The daemon's HTTP API over its Unix socket.

Python's own client of HTTP takes longer for an answer than the daemon does, most of it for headers that say nothing here.
"""
import atexit
import json
import os
import socket

from .exceptions import WorkerError

DEFAULT_SOCKET = '/run/girder-worker/girder-worker.sock'

# How many connections a process keeps for its next calls. A call takes one, and gives it back.
_MAX_IDLE = 4

# What is taken of an answer, in bytes.
_MAX_LINE = 16 << 10
_MAX_LINES = 100
_MAX_BODY = 64 << 20

_UNRESERVED = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~'

_encode = json.JSONEncoder(allow_nan=False, separators=(',', ':')).encode
_idle = []


def socket_path():
    """Where the daemon listens: GIRDER_WORKER_SOCKET, or the usual place."""
    return os.environ.get('GIRDER_WORKER_SOCKET') or DEFAULT_SOCKET


class _Stale(Exception):
    """The daemon had closed the connection before it answered anything."""


class _Connection:
    """Belongs to the process and the user that made it: whose its calls are was settled then."""

    def __init__(self, path, timeout):
        self.path, self.who, self.reader = path, _who(), None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(timeout)
            self.sock.connect(path)
            self.reader = self.sock.makefile('rb')
        except OSError as e:
            self.close()
            hint, kind = 'is the daemon running?', 'not-running'
            if isinstance(e, PermissionError):
                hint, kind = 'users of the daemon are in the group girder-worker', 'no-permission'
            raise WorkerError('cannot reach girder-worker at %s: %s; %s' % (path, e.strerror or e, hint), kind) from e
        except BaseException:
            self.close()
            raise

    def usable(self, path):
        """Whether a call may go this way, and the daemon has not closed it."""
        if (self.path, self.who) != (path, _who()):
            return False
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self):
        for it in self.reader, self.sock:
            try:
                it and it.close()
            except OSError:
                pass

    def exchange(self, request, timeout):
        """The status and the body of the answer to a request, and whether another one may follow."""
        self.sock.settimeout(timeout)
        try:
            self.sock.sendall(request)
            line = self.reader.readline(_MAX_LINE)
        except ConnectionError as e:
            raise _Stale(str(e)) from e
        if not line:
            raise _Stale('it has closed the connection')
        if not line.endswith(b'\n'):
            raise EOFError
        while True:
            version, status = line[:12].split(b' ')
            status, fields = int(status), self.fields()
            if status >= 200:
                break
            line = self.line()
        last = version != b'HTTP/1.1' or fields.get(b'connection') == b'close'
        if status in (204, 304):
            return status, b'', not last
        if b'transfer-encoding' in fields:
            return status, self.chunks(), not last
        size = int(fields.get(b'content-length', -1))
        if size < 0:
            return status, self.exactly(None), False
        return status, self.exactly(size), not last

    def line(self):
        line = self.reader.readline(_MAX_LINE)
        if not line.endswith(b'\n'):
            raise EOFError if len(line) < _MAX_LINE else ValueError('a line of its answer is too long')
        return line.rstrip(b'\r\n')

    def fields(self):
        """The headers up to the empty line, in lower case."""
        fields = {}
        for _ in range(_MAX_LINES):
            line = self.line()
            if not line:
                return fields
            name, _, value = line.lower().partition(b':')
            fields[name] = value.strip()
        raise ValueError('its answer has too many headers')

    def chunks(self):
        pieces, total = [], 0
        while True:
            size = int(self.line().partition(b';')[0], 16)
            total += size
            if size <= 0 or total > _MAX_BODY:
                break
            pieces.append(self.exactly(size))
            self.line()
        if size:
            raise ValueError('its answer is too large')
        self.fields()
        return b''.join(pieces)

    def exactly(self, size):
        """size bytes; None is all until the end."""
        if size is not None and size > _MAX_BODY:
            raise ValueError('its answer is too large')
        data = self.reader.read(_MAX_BODY + 1 if size is None else size)
        if size is not None and len(data) < size:
            raise EOFError
        if len(data) > _MAX_BODY:
            raise ValueError('its answer is too large')
        return data


def _who():
    return os.getpid(), os.geteuid(), os.getegid()


def _take(path):
    """A connection that was kept, or None."""
    while _idle:
        try:
            connection = _idle.pop()
        except IndexError:  # another thread was first
            return None
        if connection.usable(path):
            return connection
        connection.close()
    return None


def _drop():
    while _idle:
        _idle.pop().close()


os.register_at_fork(after_in_child=_drop)
atexit.register(_drop)


class Client:
    """One daemon. timeout is in seconds, for calls that do not wait for a job."""

    def __init__(self, path=None, timeout=60):
        self.path, self.timeout = path or socket_path(), timeout

    def call(self, method, route, body=None, wait=0, again=True, within=None):
        """The decoded answer. wait is how long it may take beyond the usual, and within what the usual is; again is whether the daemon may be asked
        twice, where it closed a connection that was kept just as it was used."""
        data = b'' if body is None else _encode(body).encode()
        request = b'%s %s HTTP/1.1\r\nHost: girder-worker\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' % (
            method.encode(), route.encode(), len(data), data)
        timeout, connection = (self.timeout if within is None else min(self.timeout, within)) + wait, _take(self.path) if again else None
        while True:
            kept = connection is not None
            if not kept:
                connection = _Connection(self.path, timeout)
            try:
                status, answer, lasts = connection.exchange(request, timeout)
            except (_Stale, EOFError, OSError) as e:
                connection.close()
                if kept and isinstance(e, _Stale):
                    connection = None
                    continue
                raise WorkerError('cannot talk to girder-worker at %s: %s' % (
                    self.path, e if str(e) else 'its answer ended in the middle'), 'lost') from e
            except ValueError as e:
                connection.close()
                raise WorkerError('cannot understand girder-worker at %s: %s' % (self.path, e), 'bad-answer') from e
            except BaseException:  # with an answer under way
                connection.close()
                raise
            break
        if lasts and len(_idle) < _MAX_IDLE:
            _idle.append(connection)
        else:
            connection.close()
        try:
            decoded = json.loads(answer) if answer else None
        except ValueError:
            decoded = None
        if status >= 300:
            error = (decoded or {}).get('error', {}) if isinstance(decoded, dict) else {}
            raise WorkerError(error.get('message') or 'girder-worker answered %d' % status, error.get('kind'), error.get('field'))
        return decoded

    def submit(self, call):
        """Hands in a call of a task and returns the job. The daemon knows it again by its id, which it must have."""
        return self.call('POST', '/v1/calls', call)

    def job(self, id):  # noqa: A002
        return self.call('GET', '/v1/jobs/' + _quote(id))

    def result(self, id, wait=0, within=None):  # noqa: A002
        """How a job stands, after waiting for its end for up to wait seconds. within is how long the answer may take then."""
        return self.call('GET', '/v1/jobs/%s/result%s' % (_quote(id), '?wait=%.3fs' % wait if wait else ''), wait=wait, within=within)

    def cancel(self, id, reason=''):  # noqa: A002
        return self.call('POST', '/v1/jobs/%s/cancel' % _quote(id), {'reason': reason} if reason else {}, again=False)

    def tasks(self):
        return self.call('GET', '/v1/tasks')


def _quote(text):
    if not text.strip(_UNRESERVED):
        return text
    return ''.join(chr(b) if chr(b) in _UNRESERVED else '%%%02X' % b for b in text.encode())
