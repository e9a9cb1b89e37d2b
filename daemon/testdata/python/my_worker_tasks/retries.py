"""Each way in which Celery's documentation has a task tried again."""
import datetime

from girder_worker.app import app


@app.task(bind=True)
def raised(self):
    if self.request.retries < 2:
        raise self.retry(exc=OSError('not yet'), countdown=0)
    return self.request.retries


@app.task(bind=True, default_retry_delay=0)
def called(self):
    try:
        if self.request.retries < 1:
            raise OSError('not yet')
    except OSError as exc:
        self.retry(exc=exc)
    return self.request.retries


@app.task(bind=True, max_retries=1)
def exceeds(self):
    self.retry(countdown=0)


@app.task(bind=True, max_retries=1)
def gives_up(self):
    self.retry(exc=OSError('after %d' % self.request.retries), countdown=0)


@app.task(bind=True, max_retries=1)
def more(self):
    if self.request.retries < 3:
        self.retry(countdown=0, max_retries=3)
    return self.request.retries


@app.task(bind=True, max_retries=None)
def endless(self):
    if self.request.retries < 5:
        self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True)
def at(self, zone):
    if self.request.retries < 1:
        self.retry(eta=datetime.datetime.now(datetime.timezone.utc) if zone else datetime.datetime.utcnow())
    return self.request.retries


@app.task(bind=True, max_retries=1)
def goes_on(self):
    if self.request.retries < 1:
        again = self.retry(countdown=0, throw=False)
        print('goes on after a', type(again).__name__)
    return self.request.retries


@app.task(bind=True)
def same(self, a, b=None):
    if self.request.retries < 1:
        self.retry((a,), {'b': b}, countdown=0)
    return [a, b]


@app.task(bind=True)
def others(self, a):
    self.retry((a + 1,), countdown=0, queue='another')


@app.task(autoretry_for=(OSError,), retry_kwargs={'max_retries': 1, 'countdown': 0})
def by_itself():
    raise OSError('again')


@app.task(bind=True, autoretry_for=(Exception,), retry_backoff=True, retry_jitter=False)
def backs_off(self):
    if self.request.retries < 1:
        raise OSError('not yet')
    return self.request.retries


@app.task(bind=True, autoretry_for=(Exception,), retry_kwargs={'countdown': 600})
def both(self):
    if self.request.retries < 1:
        self.retry(countdown=0)
    return self.request.retries


class Stubborn(app.Task):
    autoretry_for = (OSError,)
    max_retries = 2
    default_retry_delay = 0


@app.task(base=Stubborn, bind=True)
def of_class(self):
    if self.request.retries < 2:
        raise OSError('not yet')
    return self.request.retries


@app.task
def as_function():
    try:
        gives_up()
    except OSError as exc:
        return 'gives_up itself raised %s' % exc
