"""Girder Worker's interface for task packages, on the socket of the girder-worker daemon.

This is not Kitware's distribution of the same name. It has its documented interface
and no dependency, for interpreters that have neither Celery nor a broker.
"""
__version__ = '0.0.0'  # written by build.py
__license__ = 'Apache 2.0'


def __getattr__(name):
    # Each call of a task imports this package, and most need no logger.
    if name != 'logger':
        raise AttributeError('module %r has no attribute %r' % (__name__, name))
    import logging
    global logger
    logger = logging.getLogger('girder_worker')
    logger.addHandler(logging.NullHandler())
    return logger


class GirderWorkerPluginABC:
    """What an entry point of the group girder_worker_plugins names."""

    def __init__(self, app, *args, **kwargs):
        self.app = app

    def task_imports(self):
        """The modules that define the plugin's tasks."""
        return []


class GirderWorkerPlugin(GirderWorkerPluginABC):
    """The tasks that come with Girder Worker."""

    def task_imports(self):
        return ['girder_worker.docker.tasks']
