"""Loads every plugin, and fails with the first that does."""
import importlib.metadata


def get_plugin_task_modules(app=None):
    modules = []
    for point in importlib.metadata.entry_points(group='girder_worker_plugins'):
        modules.extend(point.load()(app).task_imports())
    return modules


def discover_tasks(app):
    app.conf.update({'CELERY_INCLUDE': get_plugin_task_modules(app)})
