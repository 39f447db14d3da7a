"""Settings as frozen dataclasses: their ranges, their way into a config and back.

A field is declared as `momentum: float = setting(0.9, at_least=0, below=1)  # what it means`; a
plain default means that any value of its kind is allowed. The config of a program is built from
the dataclasses (`to_settings`), so a new field needs no edit elsewhere, and every program checks
the values in one place (`from_settings`). What a key is made of is told by `identity`.
"""

import dataclasses
import math
import operator
import typing
from collections.abc import Collection, Mapping
from typing import Literal

from data_pipelines.errors import UserError

Auto = int | Literal['auto']
_NONE = object()


def setting(
    default,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Collection = (),
    neutral=_NONE,
    result: bool = True,
):
    """A dataclass field with a range (of each entry of a tuple) or a choice of values.

    `neutral`: the value at which the field does nothing; there it is no part of a key, so a field
    that is added with a neutral default leaves all keys as they were. `result=False`: whatever its
    value, the result is the same.
    """
    bounds = {'at_least': at_least, 'above': above, 'at_most': at_most, 'below': below}
    metadata = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata |= {'one_of': one_of} if one_of else {}
    metadata |= {'neutral': neutral} if neutral is not _NONE else {}
    return dataclasses.field(default=default, metadata=metadata | {'result': result})


def derived(default):
    """A field that `resolve` fills in: neither in a config nor checked."""
    return dataclasses.field(default=default, metadata={'derived': True})


def to_settings(settings) -> dict:
    """Fields of a settings object (nested ones too) as config entries; an Auto field as text."""
    hints, found = typing.get_type_hints(type(settings)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = to_settings(value)
        elif not field.metadata.get('derived'):
            # A config entry keeps its type: text is the only one that takes `auto` and numbers.
            found[field.name] = str(value) if hints[field.name] == Auto else value
    return found


def from_settings(default, entries: Mapping, where: str):
    """`default` with its fields replaced by config entries; `where` names their section in errors.

    Raises UserError for a value that is not of its field's kind or out of its range.
    """
    hints = typing.get_type_hints(type(default))
    fields, changes = {field.name: field for field in dataclasses.fields(default)}, {}
    for name, value in entries.items():
        path = f'{where}.{name}' if where else name
        if name not in fields:
            section = where or 'the config'
            raise UserError(f'--config.{path} does not exist; {section} has {", ".join(fields)}.')
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            if not hasattr(value, 'items'):
                raise UserError(f'--config.{path} is a section, not {value!r}; set its fields.')
            changes[name] = from_settings(current, value, path)
            continue
        if hints[name] == Auto:
            value = _auto_or_whole_number(value, path)
        elif isinstance(current, tuple):
            value = _tuple(value, current, hints[name], path)
        elif hints[name] in (bool, int, float, str):
            value = _scalar(value, hints[name], path)
        _check(value, fields[name].metadata, path)
        changes[name] = value
    return dataclasses.replace(default, **changes)


def _auto_or_whole_number(value, path: str) -> Auto:
    if value == 'auto':
        return value
    if not str(value).isdecimal():
        raise UserError(f'--config.{path}={value} must be a whole number or auto.')
    return int(value)


def _scalar(value, kind: type, path: str):
    """`value` as its field's kind: a whole number will do for a float."""
    if kind is float and _is(value, float):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text'}
        raise UserError(f'--config.{path}={value!r} must be {names[kind]}.')
    return value


def _tuple(value, current: tuple, hint, path: str) -> tuple:
    """A tuple of the kind of its hint; tuple[float, float] is a range, the lower bound first."""
    kinds = typing.get_args(hint)
    of_any_length, is_range = kinds[1:] == (Ellipsis,), kinds == (float, float)
    what = 'numbers' if float in kinds or int in kinds else 'names'
    example = current or (('name',) if what == 'names' else (1, 2))
    if not isinstance(value, tuple | list):
        raise UserError(
            f'--config.{path}={value!r} must be a tuple, as "--config.{path}={example}".'
        )
    many, order = f'{len(kinds)} ', ', the lower one first' if is_range else ''
    if of_any_length:
        kinds, many = kinds[:1] * len(value), ''
    wrong = len(kinds) != len(value) or any(
        not _is(entry, kind) for entry, kind in zip(value, kinds, strict=False)
    )
    if wrong or (is_range and value[0] > value[1]):
        raise UserError(
            f'--config.{path}={tuple(value)} must be {many}{what}{order}, as '
            f'"--config.{path}={example}".'
        )
    return tuple(value)


def _is(value, kind) -> bool:
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


# Bound of a field -> (what is compared, how an error says it).
_BOUNDS = {
    'at_least': (operator.ge, '{} or more'),
    'above': (operator.gt, 'above {}'),
    'at_most': (operator.le, '{} or less'),
    'below': (operator.lt, 'below {}'),
}


def _check(value, metadata: Mapping, path: str) -> None:
    """UserError for a value (or an entry of a tuple) outside the field's range."""
    for entry in value if isinstance(value, tuple) else (value,):
        if 'one_of' in metadata and entry not in metadata['one_of']:
            choices = ', '.join(map(str, metadata['one_of']))
            raise UserError(f'--config.{path}={value} is not known; choose one of {choices}.')
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            continue
        if not math.isfinite(entry):
            raise UserError(f'--config.{path}={value} must be a finite number.')
        bounds = {name: metadata[name] for name in _BOUNDS if name in metadata}
        if not all(_BOUNDS[name][0](entry, bound) for name, bound in bounds.items()):
            words = ' and '.join(_BOUNDS[name][1].format(b) for name, b in bounds.items())
            raise UserError(f'--config.{path}={value} is out of range; it must be {words}.')
