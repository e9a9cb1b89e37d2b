"""Arguments that are replaced by something else before a task's function gets them."""
import abc


class Transform(abc.ABC):
    """An argument whose transform() makes what the function gets, and cleanup() what is to be done afterwards."""

    def _repr_model_(self):
        return str(self)

    def cleanup(self):
        pass

    @abc.abstractmethod
    def transform(self):
        pass


class ResultTransform(Transform):
    """One of girder_result_hooks: its transform() is given the function's result."""

    job = None

    @abc.abstractmethod
    def transform(self, data):
        pass

    def exception(self):
        pass
