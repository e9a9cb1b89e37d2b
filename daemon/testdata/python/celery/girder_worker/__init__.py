"""A Girder Worker on Celery, for tests: the modules and classes that Kitware's has, and so much of them as callers and
the driver of the daemon meet."""
import logging

logger = logging.getLogger('girder_worker')


class GirderWorkerPluginABC:
    def __init__(self, *args, **kwargs):
        pass

    def task_imports(self):
        return []
