"""Tells of the tasks that the packages of this interpreter have: JSON, one object a line, on descriptor 1."""
import errno
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import mmap
import os
import sys
import traceback

GROUP = 'girder_worker_plugins'
# What a plugin class sets of these is for its own tasks.
LIMITS = ('TASK_TIME_LIMIT', 'task_time_limit', 'TASK_SOFT_TIME_LIMIT', 'task_soft_time_limit')

# How many directories of one plugin are told.
MAX_OWN = 100


def main():
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # what is printed at an import is no answer
    own = os.getpid()
    os.register_at_fork(after_in_child=lambda: out.close() if os.getpid() != own else None)

    def tell(**what):
        out.write(json.dumps(what) + '\n')

    sys.path[:0] = request.get('path') or []
    found, problems = plugins(request.get('path') or [])
    closed = not machine_code()
    tell(closed=closed, python=sys.version.split()[0], watch=[p for p in sys.path if os.path.isdir(p)])
    wanted, skip = request.get('enabled') or [], request.get('skip') or []
    for name in wanted:
        if name not in [f[0] for f in found]:
            problems.append('there is no plugin %s here; there are: %s' % (name, ', '.join(sorted({f[0] for f in found})) or 'none'))
    found = [f for f in found if f[0] not in skip and (not wanted or f[0] in wanted) and not f[1].startswith('girder_worker.')
             and not f[1].startswith('girder_worker:')]
    for problem in problems:
        tell(problem=problem)
    if found:
        try:
            app = application(request.get('app_main'))
        except BaseException as exc:
            hint = ''
            if isinstance(exc, ModuleNotFoundError) and exc.name == 'girder_worker':
                hint = '; install it there: Kitware\'s, or the wheels in contrib/python'
            tell(problem='girder_worker cannot be imported: ' + said(exc) + hint)
            found = []
    limits = {key: app.conf.get(key) for key in LIMITS} if found else {}
    for name, value in found:
        tell(plugin=name, begin=True)
        app.conf.update(limits)
        tasks, problem, memory = [], None, False
        try:
            tasks = look(app, value)
        except BaseException as exc:
            problem, memory = said(exc), closed and of_memory(exc)
        watch, imports = places(value, tasks)
        twice = sorted(set(getattr(app, 'twice', [])))
        if twice:
            app.twice = []
        tell(plugin=name, value=value, tasks=tasks, problem=problem, memory=memory, twice=twice, watch=watch, imports=imports)
    tell(done=True)
    out.close()
    os._exit(0)


def machine_code():
    """Whether memory may be written and executed here: systemd's MemoryDenyWriteExecute, and SELinux, have it refused."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True


def of_memory(exc):
    """Whether an exception, or one behind it, may be for memory that was refused."""
    seen = []
    while exc is not None and exc not in seen:
        if isinstance(exc, MemoryError) or isinstance(exc, OSError) and exc.filename is None and exc.errno in (
                errno.EACCES, errno.EPERM, errno.ENOMEM):
            return True
        seen.append(exc)
        exc = exc.__cause__ or exc.__context__
    return False


def plugins(paths):
    """The name and value of every entry point, and of packages in plugin_load_path that have none."""
    points = importlib.metadata.entry_points()
    points = points.select(group=GROUP) if hasattr(points, 'select') else points.get(GROUP, ())
    found, problems, seen = [], [], set()
    for p in points:
        if (p.name, p.value) in seen:
            continue
        if p.name in [f[0] for f in found]:
            problems.append('two plugins are called %s: %s and %s; the first counts' % (
                p.name, [f[1] for f in found if f[0] == p.name][0], p.value))
            continue
        seen.add((p.name, p.value))
        found.append((p.name, p.value))
    modules = {f[1].partition(':')[0].partition('.')[0] for f in found}
    for directory in paths:
        try:
            names = sorted(os.listdir(directory))
        except OSError as exc:
            problems.append('plugin_load_path: %s' % exc)
            continue
        for name in names:
            if name not in modules and os.path.isfile(os.path.join(directory, name, '__init__.py')):
                found.append((name, name + ':'))
    return found, problems


def application(main):
    try:
        # Kitware's loads all plugins when it is imported, and fails with the first that does.
        entrypoint = importlib.import_module('girder_worker.entrypoint')
        entrypoint.get_plugin_task_modules = lambda app=None: []
    except ImportError:
        pass
    app = importlib.import_module('girder_worker.app').app
    if not hasattr(app, 'config'):
        app.config = app.conf  # the name in the documentation's example of a plugin class
    if main:
        app.main = main
    return app


def look(app, value):
    """The tasks of one plugin."""
    module, _, name = value.partition(':')
    target = importlib.import_module(module)
    if not name:
        from girder_worker import GirderWorkerPluginABC
        classes = [n for n, c in vars(target).items() if inspect.isclass(c) and issubclass(c, GirderWorkerPluginABC)
                   and c.__module__ == module]
        if len(classes) != 1:
            raise ImportError('%s has %d plugin classes, not one' % (module, len(classes)))
        value, name = module + ':' + classes[0], classes[0]
    for part in name.split('.'):
        target = getattr(target, part)
    before = dict(app.tasks)
    plugin = target(app)
    imports = plugin.task_imports()
    found = []
    for name in imports:
        importlib.import_module(name)
        for task, function in list(app.tasks.items()):
            own = getattr(function, '__module__', None) == name
            if task.startswith('celery.') or (task in before and not own):
                continue
            before[task] = function
            found.append(describe(app, task, function, name, value))
    return found


def places(value, tasks):
    """The directories of a plugin's own packages, and the files of all modules by now but Python's own."""
    own = []
    for module in sorted({m.partition(':')[0].partition('.')[0] for m in [value] + [t['module'] for t in tasks]}):
        try:
            roots = importlib.util.find_spec(module).submodule_search_locations or []
        except Exception:
            roots = []
        for root in roots:
            for directory, names, files in os.walk(root):
                names[:] = sorted(n for n in names if n != '__pycache__' and not n.startswith('.'))
                if len(own) < MAX_OWN and any(f.endswith(('.py', '.so')) for f in files):
                    own.append(directory)
    python = os.path.dirname(os.__file__) + os.sep
    files = {m.__file__ for m in list(sys.modules.values()) if isinstance(getattr(m, '__file__', None), str)}
    return own, sorted(f for f in files if os.path.isabs(f) and (not f.startswith(python) or '-packages' in f))


def describe(app, name, task, module, value):
    described = {'name': name, 'module': module, 'plugin': value, 'doc': inspect.getdoc(task) if task.__doc__ else '',
                 'title': getattr(task, '_girder_job_title', None), 'type': getattr(task, '_girder_job_type', None),
                 'public': bool(getattr(task, '_girder_job_public', False))}
    conf = app.conf
    for key in ('time_limit', 'soft_time_limit'):
        limit = getattr(task, key, None)
        for alias in ('TASK_' + key.upper(), 'task_' + key):
            if limit is None:
                limit = conf.get(alias)
        if isinstance(limit, (int, float)) and limit > 0:
            described[key] = limit
    function = getattr(task, '__wrapped__', None) or getattr(task, 'run', task)
    parameters = []
    try:
        signature = inspect.signature(task.run)
    except (TypeError, ValueError):
        signature = None
    described['typing'] = bool(getattr(task, 'typing', True)) and signature is not None and taken(signature) == taken_by(task)
    for p in signature.parameters.values() if signature else ():
        one = {'name': p.name, 'kind': p.kind.name.lower()}
        if p.default is not p.empty:
            one['optional'] = True
            try:
                one['default'] = json.loads(json.dumps(p.default, allow_nan=False))
            except (TypeError, ValueError):
                one['shown'] = repr(p.default)[:200]
        if p.annotation is not p.empty:
            one['annotation'] = getattr(p.annotation, '__name__', str(p.annotation))[:100]
        parameters.append(one)
    types = {}
    for argument in (getattr(function, '_girder_description', None) or {}).get('arguments', []):
        try:
            types[argument.name] = json.loads(json.dumps(argument.describe()))
        except Exception:
            pass
    described.update(parameters=parameters, types=types)
    return described


def taken(signature):
    return [(p.name, p.kind) for p in signature.parameters.values()]


def taken_by(task):
    """What the task itself takes: a decorator may give the function more, or less, than its caller does."""
    try:
        return taken(inspect.signature(getattr(task, '_orig_run', None) or task.run, follow_wrapped=False))
    except (TypeError, ValueError):
        return None


def said(exc):
    """One line for an exception, with where it came from."""
    text = '%s: %s' % (type(exc).__name__, exc)
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename != '<string>' and not f.filename.startswith('<frozen')]
    if frames:
        text += ' (%s, line %s)' % (frames[-1].filename, frames[-1].lineno)
    return ' '.join(text.split())[:1000]


main()
