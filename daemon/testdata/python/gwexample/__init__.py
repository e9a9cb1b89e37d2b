from girder_worker import GirderWorkerPluginABC


class GWExamplePlugin(GirderWorkerPluginABC):
    def __init__(self, app, *args, **kwargs):
        self.app = app
        self.app.config.update({'TASK_TIME_LIMIT': 300})

    def task_imports(self):
        return ['gwexample.analyses.tasks']
