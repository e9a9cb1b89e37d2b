from girder_worker.app import app
from girder_worker.utils import girder_job


@girder_job(title='Example Task')
@app.task(bind=True)
def example_task(self):
    return 'Hello World!'
