"""Calls that are put together before they are made: signatures, chains, groups and chords."""
import os

from . import exceptions
from .result import GirderAsyncResult, GroupResult


class _Startable:
    """What a call, a chain and a group have in common: _start makes it, after _check has said that all of it can be made."""

    def delay(self, *args, **kwargs):
        return self.apply_async(args, kwargs)

    def apply_async(self, args=(), kwargs=None, **options):
        self._check(args, kwargs)
        return self._start(args, kwargs, options)

    def __or__(self, other):
        return chain(self, other)


class Signature(_Startable):
    """One call of a task, not made yet."""

    def __init__(self, task, args=(), kwargs=None, options=None, immutable=False):
        self.task, self.args, self.kwargs = task, tuple(args), dict(kwargs or {})
        self.options, self.immutable = dict(options or {}), immutable

    def __repr__(self):
        given = [repr(a) for a in self.args] + ['%s=%r' % kv for kv in self.kwargs.items()]
        return '%s(%s)' % (self.task.name, ', '.join(given))

    def clone(self, args=(), kwargs=None, **options):
        if self.immutable:
            return Signature(self.task, self.args, self.kwargs, {**self.options, **options}, True)
        return Signature(self.task, tuple(args) + self.args, {**self.kwargs, **(kwargs or {})}, {**self.options, **options})

    def set(self, immutable=None, **options):
        if immutable is not None:
            self.immutable = immutable
        self.options.update(options)
        return self

    def _check(self, args=(), kwargs=None, before=False):
        call = self.clone(args, kwargs)
        call.task._check(call.args, call.kwargs, before and not self.immutable)

    def _start(self, args=(), kwargs=None, options=None, previous=None):
        call = self.clone(args, kwargs, **(options or {}))
        return call.task.apply_async(call.args, call.kwargs, _previous=previous, _with_result=not self.immutable, **call.options)

    def __call__(self, *args, **kwargs):
        call = self.clone(args, kwargs)
        return call.task(*call.args, **call.kwargs)


signature = Signature


class chain(_Startable):  # noqa: N801 - Celery's name
    """One after the other, each with the result of the one before as its first argument."""

    def __init__(self, *links):
        self.links = []
        for link in links[0] if len(links) == 1 and isinstance(links[0], (list, tuple)) else links:
            self.links.extend(link.links if isinstance(link, chain) else [link])

    def __call__(self, *args, **kwargs):
        return self.apply_async(args, kwargs)

    def _check(self, args=(), kwargs=None, before=False):
        for i, link in enumerate(self.links):
            link._check(args if i == 0 else (), kwargs if i == 0 else None, before or i > 0)

    def _start(self, args=(), kwargs=None, options=None, previous=None):
        if not self.links:
            raise ValueError('an empty chain')
        result = previous
        for i, link in enumerate(self.links):
            result = link._start(args if i == 0 else (), kwargs if i == 0 else None, options, result)
        return result


class group(_Startable):  # noqa: N801
    """All at once."""

    def __init__(self, *calls):
        self.calls = list(calls[0]) if len(calls) == 1 and not hasattr(calls[0], '_start') else list(calls)

    def __len__(self):
        return len(self.calls)

    def __call__(self, *args, **kwargs):
        return self.apply_async(args, kwargs)

    def _check(self, args=(), kwargs=None, before=False):
        for call in self.calls:
            call._check(args, kwargs, before)

    def _start(self, args=(), kwargs=None, options=None, previous=None):
        return GroupResult([c._start(args, kwargs, options, previous) for c in self.calls], previous)


class chord:  # noqa: N801
    """A group, and a call with the list of its results."""

    def __init__(self, header, body=None):
        self.header, self.body = header if isinstance(header, group) else group(header), body

    def __call__(self, body=None, **options):
        return chain(self.header, body or self.body).apply_async(**options)

    apply_async = delay = __call__


def previous_of(result):
    """The ids of the jobs that come first, and whether their results are one list."""
    if result is None:
        return [], False
    if isinstance(result, GroupResult):
        if not all(isinstance(r, GirderAsyncResult) for r in result.results):
            raise exceptions.WorkerError('a group of groups cannot be followed by a task')
        return [r.id for r in result.results], True
    return [result.id], False


def new_id():
    """A random UUID, version 4; Python's module of them takes long to import."""
    b = bytearray(os.urandom(16))
    b[6], b[8] = b[6] & 0x0f | 0x40, b[8] & 0x3f | 0x80
    h = b.hex()
    return '-'.join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))
