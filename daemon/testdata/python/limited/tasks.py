import time

from girder_worker.app import app


@app.task
def sleeps():
    print('sleeping', flush=True)
    while True:
        time.sleep(1)
