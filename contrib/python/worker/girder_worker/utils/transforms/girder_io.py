"""girder_worker_utils.transforms.girder_io, as Girder 5 calls it."""
from girder_worker_utils.transforms.girder_io import *  # noqa: F401, F403
