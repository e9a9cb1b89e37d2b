"""The types of arguments."""
import numbers
from copy import deepcopy


class Base:
    """A type. help describes the argument, id names it where that is not its name."""

    description = {}
    kind = None
    text = None

    def __init__(self, name, **kwargs):
        self.name, self.id, self.help = name, kwargs.get('id', name), kwargs.get('help')

    def set_parameter(self, parameter, **kwargs):
        self.parameter = parameter

    def has_default(self):
        return self.parameter.default is not self.parameter.empty

    def describe(self):
        described = deepcopy(self.description)
        described.setdefault('id', self.id)
        described.setdefault('name', self.name)
        if self.has_default():
            described.setdefault('default', {'data': self.serialize(self.parameter.default)})
        if self.kind:
            described['type'] = self.kind
        if self.help or self.text:
            described['description'] = self.help or self.text
        return described

    def serialize(self, value):
        return value

    def deserialize(self, value):
        return value

    def validate(self, value):
        pass


class String(Base):
    kind, text = 'string', 'Provide a string value'

    def validate(self, value):
        if not isinstance(value, str):
            raise TypeError('Expected a string value for "%s"' % self.name)


class Boolean(Base):
    kind, text = 'boolean', 'Provide a boolean value'

    def serialize(self, value):
        return bool(value)

    def deserialize(self, value):
        return value.lower() in ('true', '1', 'yes', 'on') if isinstance(value, str) else bool(value)


class Color(Base):
    kind, text = 'color', 'Provide a color value'


class Number(Base):
    kind, text = 'number', 'Select a number'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min, self.max, self.step = kwargs.get('min'), kwargs.get('max'), kwargs.get('step')

    def describe(self):
        described = super().describe()
        described.update({k: getattr(self, k) for k in ('min', 'max', 'step') if getattr(self, k) is not None})
        return described

    def validate(self, value):
        if not isinstance(value, numbers.Number):
            raise TypeError('Expected a number for parameter "%s"' % self.name)
        if self.min is not None and value < self.min:
            raise ValueError('Expected %s <= %s' % (self.min, value))
        if self.max is not None and value > self.max:
            raise ValueError('Expected %s >= %s' % (self.max, value))

    def serialize(self, value):
        return value if self.step is None or value is None else round(float(value) / self.step) * self.step

    def deserialize(self, value):
        try:
            return float(value)
        except ValueError:
            return value


class Integer(Number):
    kind, text = 'integer', 'Select an integer'

    def validate(self, value):
        super().validate(value)
        if not isinstance(value, numbers.Integral):
            raise TypeError('Expected an integer for "%s"' % self.name)

    def deserialize(self, value):
        value = super().deserialize(value)
        return int(value) if isinstance(value, float) and value == int(value) else value


class Range(Number):
    kind = 'range'


class _Choice(Base):
    text, multiple = 'Choose from a list of values', False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.choices = kwargs.get('choices', [])

    def describe(self):
        described = super().describe()
        described['values'] = list(self.choices)
        return described

    def validate(self, value):
        values = value if self.multiple else [value]
        if not isinstance(values, (list, tuple)):
            raise TypeError('Expected a list or tuple for "%s"' % self.name)
        if any(v not in self.choices for v in values):
            raise ValueError('Invalid value provided for "%s"' % self.name)


class StringChoice(_Choice):
    kind = 'string-enumeration'


class NumberChoice(_Choice):
    kind = 'number-enumeration'


class StringMultichoice(_Choice):
    kind, multiple = 'string-enumeration-multiple', True


class NumberMultichoice(_Choice):
    kind, multiple = 'number-enumeration-multiple', True


class _Vector(Base):
    text, element = 'Provide a list of values', Base

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._element = self.element(*args, **kwargs)

    def validate(self, value):
        if not isinstance(value, (list, tuple)):
            raise TypeError('Expected a list or tuple for "%s"' % self.name)
        for v in value:
            self._element.validate(v)

    def deserialize(self, value):
        return [self._element.deserialize(v) for v in (value.split(',') if isinstance(value, str) else value)]


class StringVector(_Vector):
    kind, element = 'string-vector', String


class NumberVector(_Vector):
    kind, element = 'number-vector', Number


class GirderItem(Base):
    kind, text = 'file', 'Select an item'


class GirderFolder(Base):
    kind, text = 'folder', 'Select a folder'


__all__ = ['Base', 'Boolean', 'Color', 'GirderFolder', 'GirderItem', 'Integer', 'Number', 'NumberChoice', 'NumberMultichoice',
           'NumberVector', 'Range', 'String', 'StringChoice', 'StringMultichoice', 'StringVector']
