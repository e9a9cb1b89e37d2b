from girder_worker import GirderWorkerPluginABC


class Limited(GirderWorkerPluginABC):
    def __init__(self, app, *args, **kwargs):
        self.app = app
        self.app.config.update({'TASK_TIME_LIMIT': 1})

    def task_imports(self):
        return ['limited.tasks']
