import atexit
import functools
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

from girder_worker.app import app
from girder_worker.exceptions import SoftTimeLimitExceeded
from girder_worker.utils import girder_job


@girder_job(title='Example Task', type='example')
@app.task(bind=True)
def hello(self):
    return 'Hello World!'


@app.task
def add(a, b=1):
    return a + b


def given(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(1, *args, **kwargs)
    return wrapper


@app.task
@given
def decorated(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True)
def until_canceled(task):
    print('waiting', flush=True)
    while not task.canceled:
        time.sleep(0.01)
    print('cleaned up', task.cancelled)


@app.task
def fail(text):
    raise ValueError(text, 42)


class OwnError(Exception):
    pass


@app.task
def fail_own():
    raise OwnError('mine')


@app.task(bind=True, max_retries=2)
def third_time(self):
    if self.request.retries < 2:
        print('try', self.request.retries)
        raise self.retry(countdown=0, exc=OSError('not yet'))
    return self.request.retries


@app.task(bind=True)
def reports(self):
    self.job_manager.updateProgress(total=4, current=1, message='one')
    self.job_manager.write('written\n')
    print('printed')
    print('told', file=sys.stderr)
    self.job_manager.updateProgress(current=3, message='three', forceFlush=True)
    return self.request.id


@app.task(time_limit=1)
def too_long():
    while True:
        time.sleep(1)


@app.task(soft_time_limit=1, time_limit=60)
def soft(catches):
    try:
        while True:
            time.sleep(0.05)
    except SoftTimeLimitExceeded:
        if not catches:
            raise
        return 'stopped in time'


@app.task
def surroundings():
    def readable(path):
        try:
            with open(path, 'rb') as f:
                return bool(f.read(1))
        except OSError as e:
            return e.strerror
    def writable(path):
        try:
            with open(path, 'w') as f:
                f.write('x')
            return True
        except OSError as e:
            return e.strerror
    def network():
        try:
            socket.create_connection(('127.0.0.1', 22), 1).close()
            return True
        except OSError:
            return [i[1] for i in socket.if_nameindex()]
    return {
        'uid': os.getuid(), 'cwd': os.getcwd(), 'tmp': writable('/tmp/x'), 'usr': writable('/usr/x'), 'shadow': readable('/etc/shadow'),
        'var': os.listdir('/var'), 'passwd': readable('/etc/passwd'), 'run': sorted(os.listdir('/run')), 'network': network(), 'env': sorted(os.environ),
        'stdin': sys.stdin.read(), 'caps': [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')][0],
    }


@app.task
def unholdable():
    return {1, 2}


@app.task
def endless():
    return float('inf')


@app.task
def binary():
    os.write(1, bytes(range(256)))
    return 'fine'


@app.task
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def segfaults():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task
def leaves():
    os._exit(0)


@app.task
def exits():
    sys.exit(3)


@app.task
def forks():
    if os.fork() == 0:
        return 'child'
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(600)
    return 'parent'


@app.task
def lingers():
    def later():
        time.sleep(.3)
        print('a thread ended')
    atexit.register(print, 'an exit handler ran')
    threading.Thread(target=later).start()
    return 'early'


@app.task
def changes_its_mind():
    atexit.register(os._exit, 3)
    return 'well'


@app.task(bind=True)
def is_late(self):
    """Has told its progress, for which its end is waited for, and something run when all is over."""
    self.job_manager.updateProgress(total=1, current=1, forceFlush=True)

    def alarm(*_):
        os.write(2, b'too late\n')
        raise RuntimeError('too late')
    signal.signal(signal.SIGALRM, alarm)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, .002)
    raise ValueError('failed')


@app.task
def pretends():
    """Says that it is over, in the words of what has called it, and goes on."""
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b'{"state": "SUCCESS", "result": "pretended"}\n0\n')
        except OSError:
            pass
    while True:
        print('still here', flush=True)


@app.task
def leaves_a_writer():
    subprocess.Popen(['sh', '-c', 'trap "" HUP TERM; while :; do echo flood; done'])
    subprocess.Popen(['sh', '-c', 'exec sleep 600'], start_new_session=True)
    time.sleep(.05)
    print('the last line', file=sys.stderr)
    return 'well'


@app.task
def exhausts():
    while True:
        os.dup(0)


@app.task
def large():
    return 'x' * (2 << 20)


IMPORTED = time.time()


@app.task
def imported():
    return IMPORTED, os.getuid(), os.path.exists('/tmp/mark'), os.close(os.open('/tmp/mark', os.O_CREAT | os.O_WRONLY))


@app.task
def pickled():
    return {'py/object': 'datetime.date', 'py/reduce': [{'py/type': 'os.getcwd'}, []]}


@app.task
def filled():
    return 'x' * 1_000_000


@app.task
def shape(value):
    return value
