"""girder_worker_utils.transform, as Girder 5 calls it."""
from girder_worker_utils.transform import *  # noqa: F401, F403
