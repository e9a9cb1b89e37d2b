"""girder_worker_utils.decorators, as Girder 5 calls it."""
from girder_worker_utils.decorators import *  # noqa: F401, F403
