"""Transforms that need no server."""
import shutil
import tempfile

from ..transform import Transform


class TemporaryDirectory(Transform):
    """A directory that is there while the function runs."""

    def _repr_model_(self):
        return type(self).__name__

    def transform(self):
        self.temp_dir_path = tempfile.mkdtemp()
        return self.temp_dir_path

    def cleanup(self):
        if hasattr(self, 'temp_dir_path'):
            shutil.rmtree(self.temp_dir_path, ignore_errors=True)
