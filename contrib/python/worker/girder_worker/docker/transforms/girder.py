"""What the arguments and results of docker_run have to do with Girder."""
from girder_worker_utils.transforms.girder_io import (
    GirderClientTransform, GirderUploadJobArtifact, GirderUploadToFolder, GirderUploadToItem)

from . import TemporaryVolume, _Described


class ProgressPipe(_Described):
    """A named pipe that the container writes lines of progress to, each a JSON object."""

    def __init__(self, name='.girder_progress', volume=TemporaryVolume.default):
        self.name, self._volume = name, volume


class _FromGirder(GirderClientTransform, _Described):
    transform = _Described.transform


class GirderFileIdToStream(_FromGirder):
    """The contents of a file."""

    def __init__(self, _id, **kwargs):
        super().__init__(**kwargs)
        self.file_id = str(_id)


class GirderFileIdToVolume(_FromGirder):
    """A file, downloaded before the container starts."""

    def __init__(self, _id, volume=TemporaryVolume.default, filename=None, **kwargs):
        super().__init__(**kwargs)
        self._file_id, self._volume, self._filename, self._file_path = str(_id), volume, filename, None


class GirderFolderIdToVolume(_FromGirder):
    """A folder with all that is in it, downloaded before the container starts."""

    def __init__(self, _id, volume=TemporaryVolume.default, folder_name=None, **kwargs):
        super().__init__(**kwargs)
        self._folder_id, self._volume, self._folder_name, self._folder_path = str(_id), volume, folder_name, None


class GirderItemIdToVolume(_FromGirder):
    """An item, downloaded before the container starts."""

    def __init__(self, _id, volume=TemporaryVolume.default, item_name=None, **kwargs):
        super().__init__(**kwargs)
        self._item_id, self._volume, self._item_path = str(_id), volume, None
        if item_name is not None:
            self._item_name = item_name


class GirderUploadVolumePathToItem(GirderUploadToItem):
    """Uploads what lies at a VolumePath when the container has ended."""

    def __init__(self, volumepath, item_id, delete_file=False, **kwargs):
        super().__init__(str(item_id), delete_file, **kwargs)
        self._volumepath = volumepath

    transform = _Described.transform


class GirderUploadVolumePathToFolder(GirderUploadToFolder):
    """The same into a folder."""

    def __init__(self, volumepath, folder_id, delete_file=False, **kwargs):
        super().__init__(str(folder_id), delete_file, **kwargs)
        self._volumepath = volumepath

    transform = _Described.transform


class GirderUploadVolumePathJobArtifact(GirderUploadJobArtifact):
    """The same as artifacts of the job, if it is there; with upload_on_exception also after a failure."""

    def __init__(self, volumepath, job_id=None, name=None, upload_on_exception=False, **kwargs):
        super().__init__(None if job_id is None else str(job_id), name, **kwargs)
        self._volumepath, self._upload_on_exception = volumepath, upload_on_exception

    transform = _Described.transform
