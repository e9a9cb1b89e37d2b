from girder_worker import GirderWorkerPluginABC


class MyWorkerTasks(GirderWorkerPluginABC):
    def __init__(self, app, *args, **kwargs):
        self.app = app

    def task_imports(self):
        return ['my_worker_tasks.tasks', 'my_worker_tasks.retries']


# Callers import them from here. After the class: the application looks for that.
from .tasks import my_cancellable_task, my_task  # noqa: E402, F401
