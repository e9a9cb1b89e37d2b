"""Descriptions of a function's arguments, by decorators."""
import inspect


class MissingDescriptionException(Exception):
    """A function has no description."""


class MissingInputException(Exception):
    """A required argument is missing."""


def get_description_attribute(func):
    description = getattr(getattr(func, 'run', func), '_girder_description', None)
    if description is None:
        raise MissingDescriptionException('Function is missing description decorators')
    return description


def argument(name, data_type, *args, **kwargs):
    """Says of which type an argument is: @argument('n', types.Integer, min=1)."""
    if not isinstance(name, str):
        raise TypeError('Expected argument name to be a string')
    if callable(data_type):
        data_type = data_type(name, *args, **kwargs)

    def decorate(func):
        parameters = inspect.signature(func).parameters
        if name not in parameters:
            raise ValueError('Invalid argument name "%s"' % name)
        data_type.set_parameter(parameters[name], signature=inspect.signature(func))
        description = func.__dict__.setdefault('_girder_description', {})
        description.setdefault('arguments', []).insert(0, data_type)

        def call_item_task(inputs, outputs=None):
            positional, named = parse_inputs(func, inputs)
            return func(*positional, **named)

        func.call_item_task = call_item_task
        func.describe = lambda: describe_function(func)
        return func
    return decorate


def describe_function(func):
    """The description of a decorated function, as JSON can hold it."""
    func = getattr(func, 'run', func)
    known = get_description_attribute(func)
    described = {
        'name': known.get('name', func.__name__),
        'inputs': [a.describe() for a in known.get('arguments', [])],
        'mode': 'girder_worker',
    }
    text = known.get('description', inspect.getdoc(func))
    if text:
        described['description'] = text
    return described


def get_input_data(arg, binding):
    mode = binding.get('mode', 'inline')
    if mode == 'inline' and 'data' in binding:
        value = arg.deserialize(binding['data'])
    elif mode == 'girder':
        value = binding.get('id')
    else:
        raise ValueError('Unhandled input mode')
    arg.validate(value)
    return value


def parse_inputs(func, inputs):
    """The arguments for a function from bindings of item_tasks."""
    named = {}
    for arg in get_description_attribute(func).get('arguments', []):
        described = arg.describe()
        if described['id'] in inputs:
            named[described['name']] = get_input_data(arg, inputs[described['id']])
        elif not arg.has_default():
            raise MissingInputException('Required input "%s" not provided' % described['name'])
    return [], named
