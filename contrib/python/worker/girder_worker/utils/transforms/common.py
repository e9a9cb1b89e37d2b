"""girder_worker_utils.transforms.common, as Girder 5 calls it."""
from girder_worker_utils.transforms.common import *  # noqa: F401, F403
