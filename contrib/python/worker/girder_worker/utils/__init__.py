"""The names that task packages take from girder_worker.utils."""


class JobStatus:
    """The states of a Girder job."""
    INACTIVE = 0
    QUEUED = 1
    RUNNING = 2
    SUCCESS = 3
    ERROR = 4
    CANCELED = 5

    FETCHING_INPUT = 820
    CONVERTING_INPUT = 821
    CONVERTING_OUTPUT = 822
    PUSHING_OUTPUT = 823
    CANCELING = 824


class StateTransitionException(Exception):
    """A job cannot come to a state from where it is."""


class JobSpecNotFound(Exception):
    """There is no job in Girder for a task."""


def girder_job(title=None, type='celery', public=False, handler='celery_handler', otherFields=None):  # noqa: A002
    """Says how the job of a task is shown: put above @app.task."""
    def decorate(task):
        task._girder_job_title = title
        task._girder_job_type = type
        task._girder_job_public = public
        task._girder_job_handler = handler
        task._girder_job_other_fields = dict(otherFields or {})
        return task
    return decorate


def is_revoked(task):
    """Whether somebody has canceled the task that runs."""
    return task.canceled


from ..task import Task  # noqa: E402 - task.py needs the names above

__all__ = ['JobStatus', 'JobSpecNotFound', 'StateTransitionException', 'Task', 'girder_job', 'is_revoked']
