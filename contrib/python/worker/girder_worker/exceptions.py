"""What calls raise. The names are Celery's; where Celery is not there they stand for themselves."""
import builtins


class WorkerError(Exception):
    """The daemon refused a call, or cannot be reached. kind is its own word for the reason."""

    def __init__(self, message, kind=None, field=None):
        super().__init__(message)
        self.kind, self.field = kind, field

    @property
    def away(self):
        """Whether the daemon was not there, or not until its answer had ended. It may be restarting."""
        return self.kind in ('not-running', 'lost')


class NotRegistered(KeyError):
    """No task of that name is known."""

    def __str__(self):
        return ' '.join(map(str, self.args))


class TimeoutError(builtins.TimeoutError):  # noqa: A001 - Celery's name for it
    """The result was not there in time."""


class TaskRevokedError(Exception):
    """The task was canceled."""


class TimeLimitExceeded(Exception):
    """The task was ended because it took too long."""


class SoftTimeLimitExceeded(Exception):
    """The task was asked to end because it takes too long."""


class MaxRetriesExceededError(Exception):
    """The task was tried as often as it may be."""


class Ignore(Exception):
    """The task's result is nobody's business: its job ends canceled."""


class Reject(Exception):
    """The task does not want to be run: its job ends as with Ignore, or is called again with requeue and acks_late."""

    def __init__(self, reason=None, requeue=False):
        super().__init__(reason, requeue)
        self.reason, self.requeue = reason, requeue

    def __repr__(self):
        return 'reject requeue=%s: %s' % (self.requeue, self.reason)


class Retry(Exception):
    """The task is to be run again, countdown seconds from now."""

    def __init__(self, message=None, exc=None, countdown=None, max_retries=None, args=None, kwargs=None):
        super().__init__(message)
        self.exc, self.countdown, self.max_retries = exc, countdown, max_retries
        self.new_args, self.new_kwargs = args, kwargs


class TaskError(Exception):
    """An exception whose class is not known here. type and module are its name."""

    def __init__(self, type, module, *args):  # noqa: A002
        super().__init__(*args)
        self.type, self.module = type, module

    def __str__(self):
        return '%s: %s' % (self.type, ' '.join(map(str, self.args)))


_OWN = {c.__name__: c for c in (
    NotRegistered, TimeoutError, TaskRevokedError, TimeLimitExceeded, SoftTimeLimitExceeded,
    MaxRetriesExceededError, Ignore, Reject)}


def rebuild(type, module, args, traceback=None):  # noqa: A002
    """The exception that a task ended with, of its own class where that is loaded already or one of Python's.

    Nothing is imported because of what a result says, except Python's own modules of exceptions.
    """
    import importlib
    import sys
    cls = None
    if module in ('builtins', 'exceptions', None, ''):
        cls = getattr(builtins, type, None)
    elif module in ('celery.exceptions', 'billiard.exceptions', 'billiard.einfo', 'girder_worker.exceptions'):
        cls = _OWN.get(type)
    elif module in sys.modules:
        cls = getattr(sys.modules[module], type, None)
    elif module in ('json.decoder', 'subprocess', 'socket', 'zipfile', 'concurrent.futures._base'):
        cls = getattr(importlib.import_module(module), type, None)
    exc = None
    if isinstance(cls, builtins.type) and issubclass(cls, Exception):
        try:
            exc = cls(*args)
        except Exception:
            exc = None
    if exc is None:
        exc = TaskError(type, module, *args)
    exc.traceback = traceback
    return exc
