"""The application whose decorator makes tasks."""
import os

from . import exceptions
from .result import GirderAsyncResult
from .task import Task

# What Celery has called the same option at some time.
_ALIASES = {'celeryd_task_time_limit': 'task_time_limit', 'celeryd_task_soft_time_limit': 'task_soft_time_limit',
            'celery_include': 'include', 'celery_imports': 'imports'}


class Conf(dict):
    """Options by their names, in capitals or not. task_time_limit and task_soft_time_limit are obeyed."""

    @staticmethod
    def _key(key):
        key = key.lower()
        return _ALIASES.get(key, key)

    def __setitem__(self, key, value):
        super().__setitem__(self._key(key), value)

    def __getitem__(self, key):
        return super().__getitem__(self._key(key))

    def __contains__(self, key):
        return super().__contains__(self._key(key))

    def get(self, key, default=None):
        return super().get(self._key(key), default)

    def __delitem__(self, key):
        super().__delitem__(self._key(key))

    def pop(self, key, *default):
        return super().pop(self._key(key), *default)

    def setdefault(self, key, default=None):
        return super().setdefault(self._key(key), default)

    def update(self, *args, **kwargs):
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __getattr__(self, key):
        if key.startswith('__'):
            raise AttributeError(key)
        return self.get(key)

    def __setattr__(self, key, value):
        self[key] = value


class App:
    """Stands for a Celery application: it has tasks and a configuration."""

    Task = Task

    def __init__(self, main):
        self.main, self.tasks, self.conf = main, {}, Conf()
        self.current_task = None

    @property
    def config(self):
        return self.conf

    def __repr__(self):
        return '<App %s>' % self.main

    def task(self, *args, **options):
        """Makes a task of a function: @app.task or @app.task(bind=True, name=..., max_retries=...)."""
        if len(args) == 1 and callable(args[0]) and not options:
            return self._make(args[0], {})
        if args:
            raise TypeError('@app.task takes options by their names')
        return lambda function: self._make(function, options)

    def gen_task_name(self, name, module):
        if module == '__main__' and self.main:
            module = self.main
        return '%s.%s' % (module, name) if module else name

    def _make(self, function, options):
        options = dict(options)
        base, bind = options.pop('base', None) or Task, options.pop('bind', False)
        name = options.pop('name', None) or self.gen_task_name(function.__name__, function.__module__)
        if name in self.tasks:
            found = self.tasks[name]
            if found.__wrapped__ is not function and (
                    found.__wrapped__.__code__.co_filename, found.__wrapped__.__code__.co_firstlineno) != (
                    function.__code__.co_filename, function.__code__.co_firstlineno):
                self.twice = getattr(self, 'twice', []) + [name]
            return found
        attributes = dict(options)
        attributes.update({
            'app': self, 'name': name, '__module__': function.__module__, '__doc__': function.__doc__,
            '__wrapped__': staticmethod(function), 'run': function if bind else staticmethod(function),
        })
        task = type(function.__name__, (base,), attributes)()
        task.__name__ = function.__name__
        if task.autoretry_for:
            task._orig_run, task.run = task.run, _retried(task, task.run)
        self.tasks[name] = task
        return task

    def register_task(self, task):
        task = task() if isinstance(task, type) else task
        task.app = self
        task.name = task.name or self.gen_task_name(type(task).__name__, type(task).__module__)
        if task.autoretry_for:
            task._orig_run, task.run = task.run, _retried(task, task.run)
        self.tasks[task.name] = task
        return task

    def signature(self, name, args=(), kwargs=None, **options):
        from .canvas import Signature
        return Signature(self._named(name), args, kwargs, options, options.pop('immutable', False))

    def send_task(self, name, args=None, kwargs=None, **options):
        """Calls a task that is known here by its name only."""
        return self._named(name).apply_async(args, kwargs, **options)

    def _named(self, name):
        if name in self.tasks:
            return self.tasks[name]
        task = Task()
        task.name, task.app = name, self
        return task

    def AsyncResult(self, task_id, **kwargs):
        return GirderAsyncResult(task_id)


def _retried(task, run):
    """What autoretry_for and its companions make of a task's function."""
    import functools

    @functools.wraps(run)
    def wrapper(*args, **kwargs):
        try:
            return run(*args, **kwargs)
        except (exceptions.Ignore, exceptions.Retry) + tuple(task.dont_autoretry_for):
            raise
        except tuple(task.autoretry_for) as exc:
            options = dict(task.retry_kwargs)
            if task.retry_backoff:
                options['countdown'] = _backoff(task)
            if task.override_max_retries is not None:
                options['max_retries'] = task.override_max_retries
            raise task.retry(exc=exc, **options)
    return wrapper


def _backoff(task):
    """Seconds until the next try: twice as many each time."""
    import random
    seconds = min(int(task.retry_backoff_max), max(1, int(task.retry_backoff)) * 2 ** task.request.retries)
    return random.randrange(seconds + 1) if task.retry_jitter else seconds


app = App(os.environ.get('GIRDER_WORKER_CELERY_APP_MAIN') or 'girder_worker')
