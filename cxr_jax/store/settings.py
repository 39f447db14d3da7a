"""A task's fields as config entries and back, so that a new task needs no config edit."""

import dataclasses
import typing
from typing import Literal

from data_pipelines.errors import UserError

Auto = int | Literal['auto']


def to_settings(task) -> dict:
    """Fields of a task (or of a nested dataclass); an Auto field as text, 'auto' or a number."""
    hints = typing.get_type_hints(type(task))
    settings = {}
    for field in dataclasses.fields(task):
        value = getattr(task, field.name)
        if dataclasses.is_dataclass(value):
            settings[field.name] = to_settings(value)
        elif not field.metadata.get('derived'):
            # A config entry keeps its type: text is the only one that takes `auto` and numbers.
            settings[field.name] = str(value) if hints[field.name] == Auto else value
    return settings


def from_settings(default, settings, where: str):
    """`default` with its fields replaced by `settings`; `where` names the entry in errors."""
    hints = typing.get_type_hints(type(default))
    changes = {}
    for name, value in settings.items():
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            value = from_settings(current, value, f'{where}.{name}')
        elif hints[name] == Auto:
            value = _auto_or_whole_number(value, f'{where}.{name}')
        elif isinstance(current, tuple):
            value = _range(value, f'{where}.{name}')
        elif isinstance(current, int | float) and value < 0:
            raise UserError(f'--config.{where}.{name}={value} must not be negative.')
        changes[name] = value
    return dataclasses.replace(default, **changes)


def _auto_or_whole_number(value: str, where: str) -> Auto:
    if value == 'auto':
        return value
    if not str(value).isdecimal():
        raise UserError(f'--config.{where}={value} must be a whole number or auto.')
    return int(value)


def _range(value, where: str) -> tuple[float, float]:
    numbers = [v for v in value if isinstance(v, int | float)]
    if not len(numbers) == len(value) == 2 or numbers[0] > numbers[1]:
        raise UserError(
            f'--config.{where}={tuple(value)} must be two numbers, the lower one first, as '
            f'"--config.{where}=(0.5, 1.0)".'
        )
    return tuple(value)
