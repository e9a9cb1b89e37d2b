"""Girder's client under the name that messages know it by."""
from girder_worker_utils import _girder


class GirderClient(_girder.GirderClient):
    pass
