import shutil
import sys
import time

from girder_worker.app import app


@app.task
def my_task(arg1=None, arg2=None, kwarg1=None, kwarg2=None, input_file=None):
    if input_file is not None:
        with open(input_file) as f:
            return f.read()
    return [arg1, arg2, kwarg1, kwarg2]


@app.task
def copy(path):
    return shutil.copy(path, '/tmp/copy.txt')


@app.task(bind=True)
def my_cancellable_task(task):
    print('working', flush=True)
    while not task.cancelled:
        time.sleep(0.01)
    print('cleaned up', flush=True)


@app.task
def failing(text):
    print('before it fails', flush=True)
    raise ValueError(text)


@app.task
def add(a, b):
    return a + b


@app.task(bind=True)
def tells(self):
    print('printed', flush=True)
    print('told', file=sys.stderr, flush=True)
    self.job_manager.write('written\n')
    self.job_manager.updateProgress(total=4, current=1, message='one', forceFlush=True)
    self.job_manager.updateProgress(current=3, message='three', forceFlush=True)


@app.task(bind=True)
def request(self, *args, **kwargs):
    r = self.request
    return {'id': r.id, 'args': list(r.args), 'kwargs': r.kwargs, 'retries': r.retries, 'directly': r.called_directly,
            'task': self.name, 'host': r.hostname}


@app.task(bind=True)
def asks_girder(self):
    return self.girder_client.get('system/version')['release']


@app.task
def starts_another():
    return add.delay(1, 2).get()


@app.task(bind=True, acks_late=True)
def declines(self, how):
    try:
        from celery.exceptions import Ignore, Reject
    except ImportError:
        from girder_worker.exceptions import Ignore, Reject
    if how == 'ignore':
        raise Ignore('nothing to do')
    if how == 'reject':
        raise Reject('not here')
    if self.request.retries == 0:
        raise Reject('later', requeue=True)
    return self.request.retries
