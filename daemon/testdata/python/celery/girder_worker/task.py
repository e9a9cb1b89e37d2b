import celery
from girder_worker_utils import _walk_obj

from girder_worker.utils import is_revoked


class Task(celery.Task):
    _girder_job_title = '<unnamed job>'
    _girder_job_type = 'celery'
    _girder_job_public = False
    _girder_job_handler = 'celery_handler'
    _girder_job_other_fields = {}

    reserved_headers = ['girder_client_token', 'girder_api_url', 'girder_result_hooks', 'girder_client_session_kwargs']
    reserved_options = ['girder_user', 'girder_job_title', 'girder_job_type', 'girder_job_public', 'girder_job_handler',
                        'girder_job_other_fields']

    def apply_async(self, args=None, kwargs=None, **options):
        headers = {k: getattr(self, '_' + k) for k in self.reserved_options[1:]}
        for key in self.reserved_headers + self.reserved_options:
            for given in (kwargs or {}), options:
                if key in given:
                    headers[key] = given.pop(key)
        options['headers'] = {**(options.get('headers') or {}), **headers}
        return super().apply_async(args=args, kwargs=kwargs, serializer='girder_io', **options)

    @property
    def canceled(self):
        return is_revoked(self)

    def __call__(self, *args, **kwargs):
        def transformed(value):
            return value.transform() if callable(getattr(value, 'transform', None)) else value
        result = super().__call__(*_walk_obj(args, transformed), **_walk_obj(kwargs, transformed))
        for hook in getattr(self.request, 'girder_result_hooks', []):
            result = hook.transform(result)
        return result

    @property
    def job_manager(self):
        return getattr(self.request, 'girder_job_manager', None)

    @job_manager.setter
    def job_manager(self, value):
        self.request.girder_job_manager = value

    @property
    def girder_client(self):
        return getattr(self.request, 'girder_client_instance', None)

    @girder_client.setter
    def girder_client(self, value):
        self.request.girder_client_instance = value
