"""Calls one function of a Python package. The call comes in, and its end goes out, through descriptor 0."""
import atexit
import gc
import importlib
import json
import os
import signal
import sys
from time import sleep
# An interpreter is started for each call, so that whatever most calls do without is imported where it is needed.

MAX_RESULT = (1 << 20) - 4096
MAX_TEXT = 16 << 10

# What is read at once: a larger buffer is mapped for itself, and has malloc keep more from then on.
PIECE = 1 << 16

# After how many seconds a task is called again that has given its message back.
REQUEUED = 1.0


class State:
    """What is known of the one call."""
    conn = spare = -1
    code = None  # the exit status, when the result has been sent
    canceled = False
    retries = 0
    called = False
    late = False  # whether the task acknowledges its message after its end
    again = None  # what self.retry(throw=False) has asked for


def main():
    State.conn = os.dup(0)  # which no program inherits
    State.spare = os.open(os.devnull, os.O_RDONLY)
    os.dup2(State.spare, 0)
    # Its end is this process's alone to tell, not a child's.
    os.register_at_fork(after_in_child=forget)
    # The first to be registered is the last to be called: when threads of the function have ended.
    atexit.register(leave)
    own = os.getpid()
    signal.signal(signal.SIGTERM, cancel)
    signal.signal(signal.SIGINT, cancel)
    sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace')
    sys.stderr.reconfigure(errors='backslashreplace')
    if len(sys.argv) > 1:
        with os.fdopen(int(sys.argv[1]), 'rb') as f:
            data = f.read()
    else:
        data = receive(lambda data: b'\n' in data)
    ready, _, data = data.partition(b'\n')
    # Nothing is called yet, and perhaps not for a while.
    app, restore, problem, seen = None, None, None, {}
    try:
        app, restore = load(json.loads(ready))
        seen = files()
        gc.freeze()  # nothing of it is garbage before the process ends
    except BaseException as exc:
        problem = exc
    waited = not data
    if len(sys.argv) == 1:
        data = await_call(data)
    if waited and data and (problem is not None or seen != files(seen)):
        start_again(ready + b'\n' + data)
    try:
        if problem is not None:
            raise problem
        end = run(app, json.loads(data.decode()), restore)
    except BaseException as exc:  # SystemExit, too: a task that exits has not returned
        end = failed(exc)
    if State.again is not None:
        end = failed(State.again)
    if os.getpid() != own:
        os._exit(0)  # a child that came back from the function
    flush()
    send(end + b'\n')
    State.code = 0 if b'"SUCCESS"' in end[:24] else 1
    # What the interpreter does at its end, without what keeps it from getting there.
    if 'threading' in sys.modules:
        sys.modules['threading']._shutdown()
    atexit._run_exitfuncs()


def leave():
    """Ends the process without taking the interpreter apart, which is of no use to anybody, and tells that first."""
    flush()
    if State.code is None:
        os._exit(1)
    try:
        send(b'%d\n' % State.code)
        # Who reads that is on this processor, which taking this process apart would occupy. It kills us, as a rule.
        sleep(.005)
    finally:
        os._exit(State.code)  # which says it, too


def flush():
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        pass


def forget():
    if State.conn >= 0:
        os.close(State.conn)
        State.conn = -1


def cancel(signum, frame):
    State.canceled = True


def receive(enough, data=b''):
    while not enough(data):
        piece = os.read(State.conn, PIECE)
        if not piece:
            break
        data += piece
    return data


def await_call(data):
    """Returns the call, which may not be there for a while. Whoever waits goes first when memory is short."""
    os.set_blocking(State.conn, False)
    try:
        data += os.read(State.conn, PIECE)
    except BlockingIOError:
        own = kill_first(1000)
        os.set_blocking(State.conn, True)
        data += os.read(State.conn, PIECE)
        kill_first(own)
    os.set_blocking(State.conn, True)
    return receive(lambda data: False, data)


def kill_first(score):
    """Says how soon the kernel kills this process for memory, and returns what it said of that before."""
    try:
        fd = os.open('/proc/self/oom_score_adj', os.O_RDWR | os.O_CLOEXEC)
        try:
            own = int(os.read(fd, 16))
            os.pwrite(fd, b'%d' % score, 0)
            return own
        finally:
            os.close(fd)
    except OSError:
        return score  # a call does not fail for that


def send(data):
    while data:
        data = data[os.write(State.conn, data):]


def files(known=None):
    """When the files of all modules were changed, but for those of Python itself."""
    if known is None:
        own = os.path.dirname(os.__file__) + os.sep
        known = {m.__file__ for m in list(sys.modules.values()) if isinstance(getattr(m, '__file__', None), str)}
        known = [f for f in known if not f.startswith(own) or '-packages' in f]
    found = {}
    for f in known:
        try:
            found[f] = os.stat(f).st_mtime_ns
        except OSError:
            found[f] = None
    return found


def start_again(data):
    """What was imported is not what is installed now."""
    fd = os.memfd_create('call', 0)
    with os.fdopen(os.dup(fd), 'wb') as f:
        f.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(State.conn, 0)
    os.execv(sys.executable, [sys.executable, '-I', '-B', '-X', 'utf8', __file__, str(fd)])


def load(what):
    """Imports what will be called, and returns the application that has its tasks."""
    sys.path[:0] = what.get('path') or []
    try:
        # Kitware's loads all plugins when it is imported, and fails with the first that does.
        from girder_worker import entrypoint
        entrypoint.get_plugin_task_modules = lambda app=None: []
    except ImportError:
        pass
    from girder_worker.app import app
    if not hasattr(app, 'config'):
        app.config = app.conf  # the name in the documentation's example of a plugin class
    if what.get('app_main'):
        app.main = what['app_main']
    if what.get('plugin'):
        module, _, name = what['plugin'].partition(':')
        target = importlib.import_module(module)
        for part in filter(None, name.split('.')):
            target = getattr(target, part)
        target(app)
    importlib.import_module(what['module'])
    app.tasks  # Celery's adds its own when it is first asked
    if what.get('girder'):
        girder_client()
    return app, unpickler()


def run(app, call, restore):
    task = app.tasks[call['task']]
    # What earlier tasks returned is data, whatever it looks like.
    args = (call.get('previous') or []) + [restore(a) for a in call['args']]
    kwargs = restore(call['kwargs'])
    prepare(app, task, call, args, kwargs, restore)
    value = limited(call.get('soft') or 0, lambda: task(*args, **kwargs))
    try:
        end = json.dumps({'state': 'SUCCESS', 'result': value}, allow_nan=False, default=plain).encode()
    except Exception as exc:  # where json was at with it says nothing
        raise exc.with_traceback(None) from None
    if len(end) > MAX_RESULT:
        raise ValueError('the result has %d bytes as JSON, and at most %d can be kept; write a file and return its path' % (
            len(end), MAX_RESULT))
    return end


def limited(seconds, function):
    """Raises SoftTimeLimitExceeded in the function after so many seconds; 0 is never. The signal is Celery's."""
    if not seconds:
        return function()
    import threading
    try:
        from girder_worker.exceptions import SoftTimeLimitExceeded
    except ImportError:  # Kitware's
        from celery.exceptions import SoftTimeLimitExceeded
    running = True

    def over(signum, frame):
        if running:
            raise SoftTimeLimitExceeded(seconds)
    signal.signal(signal.SIGUSR1, over)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        return function()
    finally:
        running = False
        timer.cancel()


def plain(value):
    """What JSON has no form for, as Celery writes it."""
    for name in ('isoformat', '__json__'):
        if hasattr(value, name):
            return getattr(value, name)()
    if isinstance(value, (set, frozenset)) or type(value).__name__ in ('dict_keys', 'dict_values'):
        raise TypeError('a task returned a %s, which JSON cannot hold; return a list' % type(value).__name__)
    if type(value).__name__ in ('UUID', 'Decimal', 'ObjectId'):
        return str(value)
    if hasattr(value, 'item') and hasattr(value, 'dtype') and getattr(value, 'ndim', 1) == 0:
        return value.item()
    raise TypeError('a task returned a %s.%s, which JSON cannot hold; return numbers, texts, lists and dicts' % (
        type(value).__module__, type(value).__name__))


def unpickler():
    try:
        from girder_worker._pickle import restore
        return restore
    except ImportError:
        from jsonpickle.unpickler import Unpickler
        return lambda flat: Unpickler().restore(flat)


def prepare(app, task, call, args, kwargs, restore):
    """Gives the task its request and what else it finds while it runs."""
    known = dict(call.get('request') or {})
    State.retries, State.late = known.get('retries') or 0, bool(getattr(task, 'acks_late', False))
    known.update(args=args, kwargs=kwargs, called_directly=False, is_eager=False)
    if call.get('hooks'):
        known['girder_result_hooks'] = [restore(h) for h in call['hooks']]
    cls = type(task)
    for base in cls.__mro__:
        if base.__module__ in ('girder_worker.task', 'girder_worker.utils') and base.__name__ == 'Task':
            cls = base
            break
    cls.canceled = cls.cancelled = property(lambda self: State.canceled)
    cls.retry = retry
    if hasattr(task, 'push_request'):  # Celery's
        task.push_request(**known)
        keep_request(task)
        explain_start()
        task.update_state = lambda *a, state=None, **k: task.job_manager.updateProgress(message=str(state))
    else:
        task.request.__dict__.update(known)
        app.current_task = task
    task.job_manager = JobManager()
    if known.get('girder_api_url'):
        client = girder_client()(apiUrl=known['girder_api_url'])
        client.token = known.get('girder_client_token') or ''
        task.girder_client = client


def girder_client():
    try:
        from girder_client import GirderClient
    except ImportError:
        from girder_worker_utils._girder import GirderClient
    return GirderClient


def keep_request(task):
    """Celery's own __call__ runs a task with a new request, as if it were called directly. In a worker it keeps the one
    that there is, the first time."""
    from celery._state import _task_stack
    from celery.app.task import Task
    own, call = task.request_stack.top, Task.__call__

    def __call__(self, *args, **kwargs):
        if State.called or self.request_stack.top is not own:
            return call(self, *args, **kwargs)
        State.called = True
        return self.run(*args, **kwargs)

    Task.__call__ = __call__
    _task_stack.push(task)  # celery.current_task


def explain_start():
    """Has a task that starts another one fail with what to do instead, where it reaches no broker."""
    from celery import Celery
    from kombu.exceptions import OperationalError
    send = Celery.send_task

    def send_task(self, name, *args, **kwargs):
        try:
            return send(self, name, *args, **kwargs)
        except OperationalError as exc:
            raise RuntimeError(
                '%s cannot be started from within a task, which reaches no broker (%s); have the caller put them together: '
                'a.s() | b.s(), group or chord of celery' % (name, exc)) from exc

    Celery.send_task = send_task


def retry(self, args=None, kwargs=None, exc=None, throw=True, eta=None, countdown=None, max_retries=None, **options):
    """Ends this call, unless throw says that it goes on to its end; the daemon makes the next one."""
    retry_class, exceeded_class = retry_classes()
    if self.request.called_directly:  # by another task, as a function
        raise exc or retry_class('Task can be retried')
    other = ['args'] if args is not None and list(args) != list(self.request.args) else []
    other += ['kwargs'] if kwargs is not None and kwargs != self.request.kwargs else []
    other += sorted(name for name, value in options.items() if value is not None)
    if other:
        raise ValueError('%s cannot be retried with other %s here; have its caller call it anew' % (self.name, ', '.join(other)))
    if max_retries is not None:
        self.override_max_retries = max_retries  # autoretry_for goes by it, in Celery too
    limit = self.max_retries if max_retries is None else max_retries
    if limit is not None and State.retries >= limit:
        if exc is not None:
            raise exc
        raise exceeded_class("Can't retry %s[%s]: it has been tried %d times" % (self.name, self.request.id, State.retries + 1))
    if eta is not None:
        import datetime
        if eta.tzinfo is None:  # Celery's time zone is UTC
            eta = eta.replace(tzinfo=datetime.timezone.utc)
        countdown = (eta - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    elif countdown is None:
        countdown = self.default_retry_delay
    again = retry_class(exc=exc or sys.exc_info()[1])
    again.girder_worker_countdown = max(0.0, float(countdown))
    if throw:
        raise again
    State.again = again
    return again


def retry_classes():
    """Those that tasks know: autoretry_for and what a task catches make an exception of them."""
    try:
        from girder_worker.exceptions import MaxRetriesExceededError, Retry
    except ImportError:  # Kitware's
        from celery.exceptions import MaxRetriesExceededError, Retry
    return Retry, MaxRetriesExceededError


class JobManager:
    """The job's log is the output, its progress a pipe."""

    def __init__(self):
        self.status, self._total, self._current, self._message, self._pipe = None, None, None, None, None
        self.logPrint, self.url, self.headers, self.reference = True, None, {}, None

    def write(self, message, forceFlush=False):
        if isinstance(message, bytes):
            sys.stdout.flush()
            sys.stdout.buffer.write(message)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.write(message)
            sys.stdout.flush()

    def updateProgress(self, total=None, current=None, message=None, forceFlush=False):
        if total is not None:
            self._total = total
        if current is not None:
            self._current = current
        if message is not None:
            self._message = message
        line = {k: v for k, v in (('total', self._total), ('current', self._current)) if v is not None}
        if self._message is not None:
            line['message'] = str(self._message)
        try:
            if self._pipe is None:
                self._pipe = os.open(os.environ['GIRDER_WORKER_PROGRESS'], os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._pipe, json.dumps(line, default=float).encode() + b'\n')
        except (OSError, KeyError):
            pass

    def updateStatus(self, status):
        """The stages of a job are shown as progress; its state is the worker's to tell."""
        stages = {820: 'fetching input', 821: 'converting input', 822: 'converting output', 823: 'pushing output'}
        self.status = status
        if status in stages:
            self.updateProgress(message=stages[status])

    def refreshStatus(self):
        return 824 if State.canceled else self.status or 2

    def flush(self):
        sys.stdout.flush()
        sys.stderr.flush()

    _flush = flush

    def cleanup(self):
        pass


def failed(exc):
    """What goes out for an exception. The log gets it with its traceback, as Girder Worker writes it."""
    countdown = getattr(exc, 'girder_worker_countdown', None)
    if countdown is not None:
        end = {'state': 'RETRY', 'countdown': countdown}
        if exc.exc is not None:
            end['error'] = described(exc.exc)
        return json.dumps(end).encode()
    error = described(exc)
    declined = declines(exc)
    if declined:
        # In Celery nobody is told of such an end. A job has one, which is nobody's failure.
        if declined == 'Reject':
            error['message'] = str(getattr(exc, 'reason', ''))[:MAX_TEXT]
        say('%s: %s\n' % (error['type'], error['message']))
        if declined == 'Reject' and State.late and getattr(exc, 'requeue', False):
            return json.dumps({'state': 'RETRY', 'countdown': REQUEUED, 'error': error}).encode()
        return json.dumps({'state': 'IGNORED', 'error': error}).encode()
    stack = stack_of(exc)
    say('%s: %s\n%s' % (error['type'], error['message'], stack))
    error['traceback'] = 'Traceback (most recent call last):\n%s%s: %s\n' % (stack[-MAX_TEXT:], error['type'], error['message'])
    return json.dumps({'state': 'FAILURE', 'error': error}).encode()


def say(text):
    try:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        pass


def declines(exc):
    """Whether a task does not want to have been called: Ignore or Reject, of Celery or of our own."""
    for cls in type(exc).__mro__:
        if cls.__module__ in ('celery.exceptions', 'girder_worker.exceptions') and cls.__name__ in ('Ignore', 'Reject'):
            return cls.__name__
    return None


def stack_of(exc):
    """Where it was raised, without the frames above the task."""
    try:
        os.close(State.spare)  # the function may have left no descriptor to import with
        import traceback
        frames = traceback.extract_tb(exc.__traceback__)
        while frames and (frames[0].filename in (__file__, importlib.__file__) or frames[0].filename.startswith('<frozen importlib')
                          or frames[0].filename.endswith('/girder_worker/task.py')):
            frames.pop(0)
        return ''.join(traceback.format_list(frames))
    except Exception as exc:
        return '  (it cannot be shown where: %r)\n' % exc


def described(exc):
    try:
        text = str(exc)
    except Exception:
        text = '(its text cannot be had)'
    args = []
    for a in getattr(exc, 'args', ()):
        try:
            json.dumps(a, allow_nan=False)
        except Exception:
            a = repr(a)
        args.append(a)
    if len(json.dumps(args)) > MAX_TEXT:
        args = [text[:MAX_TEXT]]
    cls = type(exc)
    return {'type': cls.__name__, 'module': cls.__module__, 'message': text[:MAX_TEXT], 'args': args}


main()
