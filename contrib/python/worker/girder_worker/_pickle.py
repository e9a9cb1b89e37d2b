"""Values as jsonpickle writes them, in the part of its format that the daemon reads.

References (py/id) are neither written nor read: the same object twice is written twice.
"""
import binascii
import sys

# What may be made again from its name: plain data, made without a call of its own.
_MODULES = (
    'girder_worker.docker.transforms', 'girder_worker.docker.transforms.girder',
    'girder_worker_utils.transforms.girder_io', 'girder_worker_utils.transforms.common',
    'girder_worker_utils.transforms.contrib.girder_io',
)


class PickleError(TypeError):
    """A value that cannot be sent."""


def flatten(value, depth=0):
    """value as JSON can hold it."""
    if depth > 64:
        raise PickleError('a value is nested too deeply to be sent')
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return {'py/b64': _b64(value)}
    if isinstance(value, list):
        return [flatten(v, depth + 1) for v in value]
    if isinstance(value, tuple):
        return {'py/tuple': [flatten(v, depth + 1) for v in value]}
    if isinstance(value, (set, frozenset)):
        return {'py/set': [flatten(v, depth + 1) for v in value]}
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k): flatten(v, depth + 1) for k, v in value.items()}
    if type(value) is _class('datetime', 'datetime') and value.tzinfo is None:
        packed = value.__reduce__()[1][0]
        return {'py/object': 'datetime.datetime', '__reduce__': [{'py/type': 'datetime.datetime'}, [_b64(packed)]]}
    if isinstance(value, (_class('datetime', 'date'), _class('datetime', 'time'))):
        return value.isoformat()
    if isinstance(value, (_class('uuid', 'UUID'), _class('decimal', 'Decimal'))):
        return str(value)
    if type(value).__name__ == 'ObjectId':
        return str(value)
    state = getattr(value, '_pickled_', None)
    if state is not None:
        return state()
    module = type(value).__module__
    if module in _MODULES:
        flat = {'py/object': module + '.' + type(value).__qualname__}
        for key, attribute in vars(value).items():
            flat[key] = flatten(attribute, depth + 1)
        return flat
    raise PickleError('a %s.%s cannot be sent to a task; send numbers, texts, lists, dicts or transforms' % (
        module, type(value).__qualname__))


def _class(module, name):
    """A class whose instances there are only where its module was imported already."""
    return getattr(sys.modules.get(module), name, ())


def _b64(data):
    return binascii.b2a_base64(data, newline=False).decode('ascii')


def restore(flat):
    """The value of what flatten, or a Girder server's jsonpickle, has written."""
    if isinstance(flat, list):
        return [restore(v) for v in flat]
    if not isinstance(flat, dict):
        return flat
    if 'py/tuple' in flat:
        return tuple(restore(v) for v in flat['py/tuple'])
    if 'py/set' in flat:
        return {restore(v) for v in flat['py/set']}
    if 'py/b64' in flat:
        return binascii.a2b_base64(flat['py/b64'])
    if 'py/object' in flat:
        return _instance(flat)
    return {k: restore(v) for k, v in flat.items()}


def _instance(flat):
    name = flat['py/object']
    module, _, cls = name.rpartition('.')
    if module.startswith('girder_worker.utils.'):  # Girder 5's name
        module = 'girder_worker_utils.' + module[len('girder_worker.utils.'):]
    if name == 'datetime.datetime':
        import datetime
        return datetime.datetime(binascii.a2b_base64(flat['__reduce__'][1][0]))
    if name == 'bson.objectid.ObjectId':
        return binascii.a2b_base64(flat['py/state']['py/b64']).hex()
    if name == 'uuid.UUID':
        import uuid
        return uuid.UUID(hex=flat['hex'])
    state = flat.get('py/state', {k: v for k, v in flat.items() if not k.startswith('py/')})
    if name == 'girder_client.GirderClient':
        from girder_worker_utils._girder import GirderClient
        client = GirderClient(apiUrl=state.get('urlBase'))
        client.token = state.get('token')
        return client
    if module not in _MODULES:
        raise PickleError('the class %s is not one that a task may be given' % name)
    import importlib
    made = object.__new__(getattr(importlib.import_module(module), cls))
    made.__dict__.update({k: restore(v) for k, v in state.items()})
    return made
