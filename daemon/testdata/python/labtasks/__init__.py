from girder_worker import GirderWorkerPlugin


class LabPlugin(GirderWorkerPlugin):
    def task_imports(self):
        return ['labtasks.tasks']
