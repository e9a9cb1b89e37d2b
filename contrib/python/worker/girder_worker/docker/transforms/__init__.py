"""What the arguments of docker_run may be made of: plain data, which the daemon gives its meaning."""
import os

from girder_worker_utils.transform import Transform

TEMP_VOLUME_MOUNT_PREFIX = '/mnt/girder_worker'


class _Described(Transform):
    """A transform that only the daemon carries out."""

    def transform(self, *args, **kwargs):
        raise NotImplementedError('%s is for docker_run, which the daemon runs' % type(self).__name__)


class HostStdOut(_Described):
    """The job's log."""


class HostStdErr(_Described):
    """The job's log, as what was written to the standard error."""


class ContainerStdOut(_Described):
    """What the container writes to its standard output."""


class ContainerStdErr(_Described):
    """What the container writes to its standard error."""


class BindMountVolume(_Described):
    """A directory of the machine in the container."""

    def __init__(self, host_path, container_path, mode='rw'):
        self._host_path, self._container_path, self.mode = host_path, container_path, mode

    @property
    def host_path(self):
        return self._host_path

    @property
    def container_path(self):
        return self._container_path


Volume = BindMountVolume


class _Default(type(_Described)):
    @property
    def default(cls):
        """The one temporary volume that every container has."""
        return _DefaultTemporaryVolume()


class TemporaryVolume(BindMountVolume, metaclass=_Default):
    """A directory that is there for one job, in host_dir where that is named."""

    def __init__(self, host_dir=None, mode=0o777):
        super().__init__(None, None)
        self._transformed = False
        self.host_dir, self._mode, self._instance = host_dir, mode, None


class _DefaultTemporaryVolume(TemporaryVolume):
    pass


class NamedPipeBase(_Described):
    """A named pipe on a volume, or where both paths say."""

    def __init__(self, name, container_path=None, host_path=None, volume=TemporaryVolume.default):
        self._container_path = self._host_path = self._volume = None
        if container_path is not None and host_path is not None:
            self._container_path, self._host_path = container_path, host_path
        else:
            self._volume = volume
        self.name = name


class NamedInputPipe(NamedPipeBase):
    """A named pipe that the container reads."""


class NamedOutputPipe(NamedPipeBase):
    """A named pipe that the container writes."""


class VolumePath(_Described):
    """A file or directory on a volume."""

    def __init__(self, filename, volume=TemporaryVolume.default):
        if os.path.isabs(filename):
            raise ValueError('VolumePath(%r): want a path relative to the volume' % filename)
        self.filename, self._volume = filename, volume


class Connect(_Described):
    """Has what comes out of input written to output. One of the two is a named pipe or a stream of the container."""

    def __init__(self, input, output):  # noqa: A002
        self._input, self._output = input, output


class ChunkedTransferEncodingStream(_Described):
    """A POST request whose body is the stream."""

    def __init__(self, url, headers=None, **kwargs):
        self.url, self.headers = url, headers or {}
