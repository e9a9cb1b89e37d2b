"""The base class of tasks."""
from girder_worker_utils import _walk_obj

from . import exceptions
from .canvas import Signature, new_id, previous_of
from .result import GirderAsyncResult


class Request:
    """What is known of the call that runs. As in Celery, unknown attributes are there only when they were sent."""

    def __init__(self, **known):
        self.id = self.root_id = self.parent_id = self.hostname = None
        self.args, self.kwargs, self.retries, self.headers = (), {}, 0, {}
        self.called_directly, self.is_eager, self.timelimit = True, False, (None, None)
        self.__dict__.update(known)

    def get(self, name, default=None):
        return getattr(self, name, default)


class Task:
    """A function that the daemon can run. @app.task makes one."""

    app = None
    name = None
    max_retries = 3
    default_retry_delay = 180
    time_limit = None
    soft_time_limit = None
    ignore_result = False
    acks_late = False
    autoretry_for = ()
    dont_autoretry_for = ()
    retry_kwargs = {}
    retry_backoff = False
    retry_backoff_max = 600
    retry_jitter = True
    override_max_retries = None
    MaxRetriesExceededError = exceptions.MaxRetriesExceededError
    typing = True
    _orig_run = None  # the function, where autoretry_for has wrapped it

    _girder_job_title = None
    _girder_job_type = 'celery'
    _girder_job_public = False
    _girder_job_handler = 'celery_handler'
    _girder_job_other_fields = {}

    # Those of a call's keywords that are not the function's.
    reserved_headers = ['girder_client_token', 'girder_api_url', 'girder_result_hooks', 'girder_client_session_kwargs']
    reserved_options = ['girder_user', 'girder_job_title', 'girder_job_type', 'girder_job_public', 'girder_job_handler',
                        'girder_job_other_fields']

    request = None

    def __init__(self):
        self.request = Request()

    def __repr__(self):
        return '<@task: %s>' % self.name

    def run(self, *args, **kwargs):
        raise NotImplementedError('Tasks must define the run method.')

    # While it runs.

    @property
    def canceled(self):
        """Whether somebody has asked for the end of the task that runs."""
        return False

    @property
    def cancelled(self):
        return self.canceled

    @property
    def job_manager(self):
        return getattr(self.request, 'girder_job_manager', None)

    @job_manager.setter
    def job_manager(self, value):
        self.request.girder_job_manager = value

    @property
    def girder_client(self):
        return getattr(self.request, 'girder_client_instance', None)

    @girder_client.setter
    def girder_client(self, value):
        self.request.girder_client_instance = value

    def __call__(self, *args, **kwargs):
        """Runs the function here, with its transforms."""
        hooks = getattr(self.request, 'girder_result_hooks', None) or []
        given = (args, kwargs)
        try:
            result = self.run(*_walk_obj(args, _transform), **_walk_obj(kwargs, _transform))
            if isinstance(result, tuple):
                return tuple(hooks[i].transform(r) if i < len(hooks) else r for i, r in enumerate(result))
            return hooks[0].transform(result) if hooks else result
        except Exception:
            for hook in hooks:
                hook.exception()
            raise
        finally:
            _walk_obj(given, _clean_up)
            for hook in hooks:
                _clean_up(hook)

    def retry(self, args=None, kwargs=None, exc=None, throw=True, eta=None, countdown=None, max_retries=None, **options):
        """Runs the task again later. Called directly it raises exc."""
        raise exc or exceptions.Retry('the task wants to be run again', exc=exc, countdown=countdown, max_retries=max_retries)

    def update_state(self, task_id=None, state=None, meta=None, **kwargs):
        """Tells of custom states as progress."""
        if self.job_manager is not None:
            self.job_manager.updateProgress(message=str(state))

    def describe(self):
        from girder_worker_utils.decorators import describe_function
        return describe_function(self.run)

    def call_item_task(self, inputs, outputs=None):
        return self.run.call_item_task(inputs, outputs or {})

    # Before.

    def delay(self, *args, **kwargs):
        return self.apply_async(args, kwargs)

    def s(self, *args, **kwargs):
        return Signature(self, args, kwargs)

    def si(self, *args, **kwargs):
        return Signature(self, args, kwargs, immutable=True)

    signature = subtask = s

    def AsyncResult(self, task_id, **kwargs):
        return GirderAsyncResult(task_id, task_name=self.name)

    def apply(self, args=(), kwargs=None, **options):
        """Runs the function here and keeps its result."""
        return EagerResult(self, args or (), kwargs or {})

    def apply_async(self, args=None, kwargs=None, task_id=None, countdown=None, eta=None, expires=None, priority=None,
                    time_limit=None, soft_time_limit=None, headers=None, _previous=None,
                    _with_result=True, **options):
        """Hands the call to the daemon. What it refuses is raised as WorkerError."""
        from ._pickle import flatten
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        fields = dict(headers or {})
        for name in self.reserved_headers + self.reserved_options:
            for given in (kwargs, options):
                if name in given:
                    fields[name] = given.pop(name)
        for name in ('link', 'link_error', 'chain', 'chord'):
            if options.get(name):
                raise exceptions.WorkerError('%s cannot be given here; put calls together with a.s() | b.s(), group or chord' % name)
        ids, listed = previous_of(_previous)
        if self.app is not None and self.app.current_task is not None:
            raise RuntimeError(
                '%s cannot be started from within a task, which does not see the daemon; have the caller put them together: '
                'a.s() | b.s(), group or chord of girder_worker.canvas' % self.name)
        self._check(args, kwargs, ids and _with_result)
        call = {
            'id': task_id or new_id(),
            'task': self.name,
            'args': [flatten(a) for a in args],
            'kwargs': flatten(kwargs),
            'hooks': [flatten(h) for h in fields.get('girder_result_hooks') or []],
            'girder': {
                'title': fields.get('girder_job_title', self._girder_job_title) or self.name,
                'type': fields.get('girder_job_type', self._girder_job_type),
                'public': bool(fields.get('girder_job_public', self._girder_job_public)),
                'other_fields': flatten(fields.get('girder_job_other_fields', self._girder_job_other_fields) or {}),
            },
        }
        if ids:
            call['after'] = ids
            call['previous'] = 'none' if not _with_result else 'list' if listed else 'one'
        for name, value in (('countdown', countdown), ('priority', priority),
                            ('timeout', time_limit or self.time_limit), ('soft_timeout', soft_time_limit or self.soft_time_limit)):
            if value is not None:
                call[name] = value
        for name, value in (('not_before', eta), ('expires', expires)):
            if hasattr(value, 'isoformat'):  # without a time zone it is UTC, as Celery has it
                value = value.isoformat() + ('' if value.tzinfo else 'Z')
            if value is not None:
                call[name] = value
        for name in ('girder_api_url', 'girder_client_token'):
            if fields.get(name):
                call[name] = fields[name]
        if fields.get('girder_client_session_kwargs'):
            call['girder_client_session_kwargs'] = flatten(fields['girder_client_session_kwargs'])
        result = GirderAsyncResult(call['id'], task_name=self.name, parent=_previous)
        result._client.submit(call)
        shown = dict(call['girder'])
        result._girder = {**shown.pop('other_fields'), **shown}
        return result

    def _check(self, args, kwargs, before=False):
        """Raises the TypeError that a call of the function with these would, before it is queued. before is whether the
        result of a call before it comes first."""
        if not self.typing or type(self) is Task:
            return
        reserved = self.reserved_headers + self.reserved_options
        args, kwargs = (None,) * bool(before) + tuple(args), {k: v for k, v in kwargs.items() if k not in reserved}
        run = self._orig_run or self.run
        if _fits(run, args, kwargs):
            return
        import inspect
        try:  # what a decorator gives its function, callers do not
            inspect.signature(run, follow_wrapped=False).bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError('%s(): %s' % (self.name, exc)) from None


class EagerResult:
    """The result of a call that was made here."""

    def __init__(self, task, args, kwargs):
        self.id, self.task_name, self.traceback, self.value, self.exc = new_id(), task.name, None, None, None
        try:
            self.value = task(*args, **kwargs)
        except Exception as e:
            self.exc = e

    @property
    def state(self):
        return 'SUCCESS' if self.exc is None else 'FAILURE'

    status = state

    @property
    def result(self):
        return self.value if self.exc is None else self.exc

    def get(self, timeout=None, propagate=True, **kwargs):
        if self.exc is not None and propagate:
            raise self.exc
        return self.result

    def ready(self):
        return True

    def successful(self):
        return self.exc is None

    def failed(self):
        return self.exc is not None


def _fits(function, args, kwargs):
    """Whether these are surely what a function takes: inspect knows more, but takes as long to import as a call to make."""
    function, given = getattr(function, '__func__', function), len(args) + hasattr(function, '__self__')
    code = getattr(function, '__code__', None)
    if code is None or code.co_posonlyargcount or code.co_flags & 0x0c:  # *args, **kwargs
        return False
    names, count = code.co_varnames, code.co_argcount
    needed = names[given:count - len(function.__defaults__ or ())] + names[count:count + code.co_kwonlyargcount]
    optional = function.__kwdefaults__ or ()
    return given <= count and all(k in names[given:count + code.co_kwonlyargcount] for k in kwargs) and all(
        k in kwargs or k in optional for k in needed)


def _transform(value):
    transform = getattr(value, 'transform', None)
    return transform() if callable(transform) else value


def _clean_up(value):
    clean_up = getattr(value, 'cleanup', None)
    if callable(clean_up):
        clean_up()
