def girder_job(title=None, type='celery', public=False, handler='celery_handler', otherFields=None):  # noqa: A002
    def decorate(task):
        task._girder_job_title, task._girder_job_type, task._girder_job_public = title, type, public
        task._girder_job_handler, task._girder_job_other_fields = handler, otherFields or {}
        return task
    return decorate


def is_revoked(task):
    """Asks every worker, which only works where they can be reached."""
    revoked = task.app.control.inspect([task.request.hostname]).revoked() or {}
    return task.request.id in revoked.get(task.request.hostname, [])
