"""girder_worker_utils.types, as Girder 5 calls it."""
from girder_worker_utils.types import *  # noqa: F401, F403
