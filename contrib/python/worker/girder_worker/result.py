"""The results of calls."""
import time

from . import exceptions

PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED = 'PENDING', 'STARTED', 'RETRY', 'SUCCESS', 'FAILURE', 'REVOKED'
READY_STATES = frozenset((SUCCESS, FAILURE, REVOKED))

# How long one request waits for a job's end, in seconds.
_PATIENCE = 30.0

# How long a get with a timeout lets the daemon take for its answer when that is over, in seconds.
_ANSWER = 5.0

# How long get outlasts a daemon that is being restarted, in seconds. Its jobs run on meanwhile.
_AWAY = 300.0


class GirderAsyncResult:
    """The job of a call, wherever it stands. id is the job's."""

    def __init__(self, id, task_name=None, parent=None, client=None):  # noqa: A002
        self.id, self.task_name, self.parent = id, task_name, parent
        if client is None:
            from ._client import Client  # which a task that runs has no use for
            client = Client()
        self._client = client
        self._last = None
        self._girder = {}

    @property
    def task_id(self):
        return self.id

    def __repr__(self):
        return '<%s: %s>' % (type(self).__name__, self.id)

    def __str__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, GirderAsyncResult) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def _now(self, wait=0, within=None):
        if self._last is None or self._last['state'] not in READY_STATES:
            self._last = self._client.result(self.id, wait, within)
        return self._last

    @property
    def state(self):
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE or REVOKED."""
        return self._now()['state']

    status = state

    @property
    def job(self):
        """The job as the daemon has it, with the fields that the call gave it for Girder."""
        job = self._client.job(self.id)
        job.setdefault('_id', job['id'])
        job.update(self._girder)
        return job

    def __getitem__(self, field):
        """A field of the job, as the documentation's example of a title has it."""
        return self.job[field]

    @property
    def result(self):
        """The value, or the exception; None while there is none."""
        now = self._now()
        if now['state'] == SUCCESS:
            return now.get('result')
        return self._exception(now)

    info = result

    @property
    def traceback(self):
        return (self._now().get('error') or {}).get('traceback')

    def ready(self):
        return self.state in READY_STATES

    def successful(self):
        return self.state == SUCCESS

    def failed(self):
        return self.state == FAILURE

    def _exception(self, now):
        if now['state'] not in (FAILURE, REVOKED):
            return None
        e = now.get('error') or {}
        if now['state'] == REVOKED:
            return exceptions.TaskRevokedError(e.get('message') or 'revoked')
        return exceptions.rebuild(e.get('type') or 'Exception', e.get('module'), e.get('args') or [e.get('message', '')],
                                  e.get('traceback'))

    def get(self, timeout=None, propagate=True, interval=None, **ignored):
        """Waits for the end and returns the value, or raises what the task has raised."""
        deadline = float('inf') if timeout is None else time.monotonic() + timeout
        away = None
        while True:
            try:
                left = max(0.0, deadline - time.monotonic())
                wait = min(_PATIENCE, left)
                now = self._now(wait, left - wait + _ANSWER)
            except exceptions.WorkerError as e:
                away = away or time.monotonic()
                if e.away and time.monotonic() >= deadline:
                    raise exceptions.TimeoutError('The operation timed out: %s' % e) from e
                if not e.away or time.monotonic() > away + _AWAY:
                    raise
                time.sleep(0.2)
                continue
            away = None
            if now['state'] in READY_STATES:
                break
            if time.monotonic() >= deadline:
                raise exceptions.TimeoutError('The operation timed out.')
        if now['state'] == SUCCESS:
            return now.get('result')
        if propagate:
            raise self._earlier() or self._exception(now)
        return self._exception(now)

    def _earlier(self):
        """What a call before this one in its chain has raised, because of which this one was not made."""
        for r in [] if self.parent is None else getattr(self.parent, 'results', [self.parent]):
            try:
                exc = r._exception(r._now(within=_ANSWER))
            except exceptions.WorkerError:  # what is known is told, then
                continue
            if exc is not None:
                return r._earlier() or exc
        return None

    wait = get

    def revoke(self, connection=None, terminate=False, signal=None, **ignored):
        """Cancels the job, running or not."""
        self._client.cancel(self.id)

    def forget(self):
        """Nothing is kept here; the daemon removes old jobs by itself."""

    def collect(self, **kwargs):
        yield self, self.get(**kwargs)


AsyncResult = GirderAsyncResult


class GroupResult:
    """The results of a group, in its order."""

    def __init__(self, results, parent=None):
        self.results, self.parent = list(results), parent

    def __len__(self):
        return len(self.results)

    def __iter__(self):
        return iter(self.results)

    def __getitem__(self, i):
        return self.results[i]

    def get(self, timeout=None, propagate=True, **kwargs):
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for r in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            values.append(r.get(timeout=left, propagate=propagate, **kwargs))
        return values

    join = get

    def ready(self):
        return all(r.ready() for r in self.results)

    def successful(self):
        return all(r.successful() for r in self.results)

    def failed(self):
        return any(r.failed() for r in self.results)

    def completed_count(self):
        return sum(r.successful() for r in self.results)

    def revoke(self, **kwargs):
        for r in self.results:
            r.revoke(**kwargs)
