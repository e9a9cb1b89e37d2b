"""Transforms that move data between Girder and the machine that a task runs on."""
import mimetypes
import os
import shutil
import tempfile
from urllib.parse import urlencode

from .._girder import default_client
from ..transform import ResultTransform, Transform


class GirderClientTransform(Transform):
    """A transform with a connection to Girder: gc, or the one that the environment names."""

    def __init__(self, *args, gc=None, **kwargs):
        self.gc = gc if gc is not None else default_client()

    def _repr_model_(self):
        for name in ('file_id', 'item_id', 'folder_id', 'job_id'):
            if hasattr(self, name):
                return "%s('%s')" % (type(self).__name__, getattr(self, name))
        return type(self).__name__

    def _server(self):
        if self.gc is None:
            raise ValueError('%s: there is no Girder to ask; give it gc=, or set GIRDER_API_URL and GIRDER_API_KEY' % self._repr_model_())
        return self.gc


class GirderClientResultTransform(ResultTransform, GirderClientTransform):
    _repr_model_ = GirderClientTransform._repr_model_


class GirderFileId(GirderClientTransform):
    """A file of Girder; the function gets the path that it was downloaded to."""

    def __init__(self, _id, **kwargs):
        super().__init__(**kwargs)
        self.file_id = str(_id)

    def transform(self):
        self.file_path = os.path.join(tempfile.mkdtemp(), self.file_id)
        self._server().downloadFile(self.file_id, self.file_path)
        return self.file_path

    def cleanup(self):
        if hasattr(self, 'file_path'):
            shutil.rmtree(os.path.dirname(self.file_path), ignore_errors=True)


class GirderItemId(GirderClientTransform):
    """An item of Girder; the function gets the path of a directory with its files."""

    def __init__(self, _id, **kwargs):
        super().__init__(**kwargs)
        self.item_id = str(_id)

    def transform(self):
        root = tempfile.mkdtemp()
        self.item_path = os.path.join(root, self.item_id)
        self._server().downloadItem(self.item_id, root, self.item_id)
        return self.item_path

    def cleanup(self):
        if hasattr(self, 'item_path'):
            shutil.rmtree(os.path.dirname(self.item_path), ignore_errors=True)


class GirderItemMetadata(GirderClientTransform):
    """Puts the result into an item's metadata."""

    def __init__(self, _id, **kwargs):
        super().__init__(**kwargs)
        self.item_id = str(_id)

    def transform(self, data):
        self._server().addMetadataToItem(self.item_id, data)
        return data

    def exception(self):
        pass


class _Upload(GirderClientResultTransform):
    delete_file = False

    def cleanup(self):
        path = getattr(self, 'output_file_path', None)
        if self.delete_file is not True or path is None:
            return
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.exists(path):
            os.remove(path)


class GirderUploadToItem(_Upload):
    """Uploads the file, or the plain files of the directory, whose path the function returned."""

    def __init__(self, _id, delete_file=False, upload_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        self.item_id, self.upload_kwargs, self.delete_file = str(_id), upload_kwargs or {}, delete_file

    def transform(self, path):
        self.output_file_path = path
        for file in _files(path):
            self._server().uploadFileToItem(self.item_id, file, **self.upload_kwargs)
        return self.item_id


class GirderUploadToFolder(_Upload):
    """Uploads the file or directory, with all below it, whose path the function returned."""

    def __init__(self, _id, delete_file=False, upload_kwargs=None, must_exist=True, **kwargs):
        super().__init__(**kwargs)
        self.folder_id, self.upload_kwargs, self.delete_file = str(_id), upload_kwargs or {}, delete_file
        self.must_exist = must_exist

    def _upload(self, path, folder):
        for name in sorted(os.listdir(path)):
            below = os.path.join(path, name)
            if os.path.isfile(below):
                self._server().uploadFileToFolder(folder, below, **self.upload_kwargs)
            elif os.path.isdir(below) and not os.path.islink(below):
                self._upload(below, self._server().createFolder(folder, name, reuseExisting=True)['_id'])

    def transform(self, path):
        self.output_file_path = path
        if not self.must_exist and not os.path.exists(path):
            return None
        if os.path.isdir(path):
            self._upload(path, self.folder_id)
        else:
            self._server().uploadFileToFolder(self.folder_id, path, **self.upload_kwargs)
        return self.folder_id


class GirderUploadJobArtifact(GirderClientResultTransform):
    """Attaches the file, or the plain files of the directory, whose path the function returned to the job."""

    def __init__(self, job_id=None, name=None, **kwargs):
        super().__init__(**kwargs)
        self.job_id, self.name = None if job_id is None else str(job_id), name

    def transform(self, path):
        job = self.job_id or str((self.job or {}).get('_id') or '')
        if not job:
            raise ValueError('GirderUploadJobArtifact: the task has no job in Girder; give it job_id')
        for file in _files(path) if os.path.exists(path) else []:
            name = self.name if self.name and not os.path.isdir(path) else os.path.basename(file)
            query = urlencode({'name': name, 'size': os.path.getsize(file), 'mimeType': mimetypes.guess_type(file)[0]})
            with open(file, 'rb') as body:
                self._server().post('job/%s/artifact?%s' % (job, query), data=body)


def _files(path):
    if not os.path.isdir(path):
        return [path]
    return [f for f in (os.path.join(path, name) for name in sorted(os.listdir(path))) if os.path.isfile(f)]
