import jsonpickle
from celery import Celery
from celery.signals import before_task_publish
from kombu.serialization import register

from girder_worker import entrypoint
from girder_worker.task import Task


@before_task_publish.connect
def _prepare(headers=None, **kwargs):
    if 'girder_result_hooks' in headers:
        headers['girder_result_hooks'] = [jsonpickle.pickler.Pickler().flatten(h) for h in headers['girder_result_hooks']]
    for key in Task.reserved_options:
        headers.pop(key, None)


register('girder_io', jsonpickle.encode, jsonpickle.decode, content_type='application/json', content_encoding='utf-8')
app = Celery('girder_worker', task_cls='girder_worker.task:Task')
entrypoint.discover_tasks(app)
app.config_from_object('girder_worker.celeryconfig', force=True)
