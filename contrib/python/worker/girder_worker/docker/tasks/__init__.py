"""docker_run, which runs a container."""
from girder_worker.app import app
from girder_worker.task import Task

__all__ = ['DockerTask', 'docker_run']


class DockerTask(Task):
    """Never run by Python: the daemon runs the container itself."""

    def __call__(self, *args, **kwargs):
        """Runs the container and waits for its end."""
        return self.delay(*args, **kwargs).get()


@app.task(base=DockerTask, bind=True, name='girder_worker.docker.tasks.docker_run')
def docker_run(task, image, pull_image=True, entrypoint=None, container_args=None, volumes=None,
               remove_container=True, **kwargs):
    """Runs a container of an image. Other keywords are those of docker-py's containers.run."""
    raise NotImplementedError('docker_run is run by the daemon')
