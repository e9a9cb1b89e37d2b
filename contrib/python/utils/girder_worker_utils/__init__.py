"""What task packages of Girder Worker share with the servers that call them."""

__version__ = '0.0.0'  # written by build.py


def _walk_obj(obj, func, leaf_condition=None):
    """obj with every value that is no dict, list or tuple replaced by func of it."""
    if leaf_condition is not None and leaf_condition(obj):
        return func(obj)
    if isinstance(obj, dict):
        return {k: _walk_obj(v, func, leaf_condition) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        walked = [_walk_obj(v, func, leaf_condition) for v in obj]
        return walked if isinstance(obj, list) else tuple(walked)
    return func(obj)
