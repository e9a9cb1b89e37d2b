"""Writes what the installed jsonpickle makes of the documents below.

    python3 generate.py > jsonpickle-$(python3 -c 'import jsonpickle; print(jsonpickle.__version__)').json

The classes only have the names and attributes of the real ones.
"""
import datetime
import json
import sys
import types
import uuid
import warnings

warnings.simplefilter('ignore')
import jsonpickle  # noqa: E402

D = 'girder_worker.docker.transforms'
G = D + '.girder'


def cls(module, name, base=object, **namespace):
    for i in range(module.count('.') + 1):
        part = '.'.join(module.split('.')[:i + 1])
        sys.modules.setdefault(part, types.ModuleType(part))
    c = type(name, (base,), dict(namespace, __module__=module))
    setattr(sys.modules[module], name, c)
    return c


def make(c, **attrs):
    o = c()
    o.__dict__.update(attrs)
    return o


Bind = cls(D, 'BindMountVolume')
Default = cls(D, '_DefaultTemporaryVolume')
Path = cls(D, 'VolumePath')
StdOut = cls(D, 'HostStdOut')
File = cls(G, 'GirderFileIdToVolume')
Upload = cls(G, 'GirderUploadVolumePathToItem')
Client = cls('girder_client', 'GirderClient')
Reporter = cls('girder_client', '_NoopProgressReporter')
ObjectId = cls('bson.objectid', 'ObjectId',
               __getstate__=lambda self: self.raw, __setstate__=lambda self, raw: None)


class App:
    def __reduce__(self):
        return reload_app, ('celery', {'broker': [1]})


def reload_app(*args):
    return App()


class Signature(dict):
    def __init__(self, app, **items):
        dict.__init__(self, **items)
        self._app = self.app = app
        self._type = self.type = App()


Signature.__module__ = 'celery.canvas'
sys.modules['celery'] = types.ModuleType('celery')
sys.modules['celery.canvas'] = types.ModuleType('celery.canvas')
sys.modules['celery.canvas'].Signature = Signature


def oid(last):
    return make(ObjectId, raw=bytes([0x60] + [0] * 10 + [last]))


def client():
    return make(Client, host=None, urlBase='http://girder.test/api/v1/', token='TOKEN',
                _itemUploadCallbacks=[], incomingMetadata={}, progressReporterCls=Reporter)


def bind():
    return make(Bind, _host_path='/data', _container_path='/mnt/data', mode='ro')


def path(volume):
    return make(Path, filename='in.tif', _volume=volume)


def default():
    return make(Default, _host_path=None, _container_path=None, mode='rw', _transformed=False,
                host_dir=None, _mode=0o777, _instance=None)


def body(image, **kwargs):
    return ((image,), kwargs, {'callbacks': None, 'errbacks': None, 'chain': None, 'chord': None})


def documents():
    v = bind()
    yield 'volume', body('img', container_args=['cat', path(v)], volumes=[v])
    v = default()
    yield 'default_twice', body('img', container_args=[
        make(File, gc=client(), _file_id='60' + '0' * 22, _volume=v, _filename=None),
        make(File, gc=client(), _file_id=oid(7), _volume=v, _filename='x')])
    env, v = {'A': '1'}, bind()
    yield 'dicts_before', body('img', environment=env, labels=env, container_args=[path(v), v], volumes=[v])
    t = path(bind())
    yield 'positional', (('img', False, 'sh', [t, t]), {}, {})
    naive = datetime.datetime(2026, 11, 21, 1, 19, 17, 31_098)
    owner = oid(9)
    yield 'hook', make(
        Upload, gc=client(), item_id='60' + '0' * 22, upload_kwargs={'reference': 'r'}, delete_file=False,
        _volumepath=path(default()),
        job={'title': 't', 'args': ('img',), 'kwargs': {'container_args': ['a'], 'volumes': []},
             'created': naive, 'when': naive, 'log': [], 'meta': {},
             'userId': owner, 'access': {'groups': [], 'users': [{'id': owner, 'level': 2, 'flags': []}]},
             '_id': oid(1)})
    utc, east = datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=-5))
    v = bind()
    yield 'aware', [naive.replace(tzinfo=utc), naive.replace(tzinfo=utc), naive.replace(tzinfo=east), v, v]
    v = bind()
    yield 'values', [{1, 2}, b'\xff\x00', uuid.UUID(int=5), Reporter, 10**30, -1, 2.0, 1e300,
                     float('nan'), float('inf'), -float('inf'), True, None, 'é\u2028\U0001f600"\\', make(StdOut), v, v]
    v = bind()
    app = App()
    yield 'chain', ((), {'volumes': [v]}, {'chain': [
        Signature(app, task='b', args=(), kwargs={'volumes': [v]}, options={'task_id': '2'}, immutable=True),
        Signature(app, task='a', args=('i',), kwargs={'volumes': [v]}, options={'task_id': '1'}, immutable=True)],
        'after': [v, path(bind())] * 2})


json.dump({name: jsonpickle.encode(d) for name, d in documents()}, sys.stdout, indent=1)
print()
