"""What a stage or a run is: the settings that are active, and the key made of them.

A key must change with everything that changes a result, and with nothing else. So a field is left
out where it cannot do anything: one that never changes a result (where things lie, how often is
saved), one at its neutral value, one that other settings switch off (`inactive`), and a nested
section of which nothing is left. So a new field with a neutral default leaves every key as it was.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from data_pipelines.errors import UserError

# Part of every key: raised when the same settings come to mean something else.
FORMAT = 3


def active(settings) -> dict:
    """The fields of a settings object that determine its result, as plain JSON.

    A settings class may have a method `inactive() -> set[str]`: names of its fields that do nothing
    with the values that the others have.
    """
    off = settings.inactive() if hasattr(settings, 'inactive') else ()
    found = {}
    for field in dataclasses.fields(settings):
        value, metadata = getattr(settings, field.name), field.metadata
        if field.name in off or not metadata.get('result', True) or metadata.get('derived'):
            continue
        if dataclasses.is_dataclass(value):
            value = active(value)
            if not value:
                continue
        elif 'neutral' in metadata and value == metadata['neutral']:
            continue
        found[field.name] = plain(value)
    return found


def restored(default, entries: Mapping, where):
    """The settings object of which `active` told `entries`, but for what has no effect.

    `default` is of the same class. UserError for a field that the class does not have, as an
    object of `where` that another version wrote may.
    """
    fields = {field.name: field for field in dataclasses.fields(default)}
    unknown = sorted(entries.keys() - fields.keys())
    if unknown:
        raise UserError(
            f'{where} was written by another version of cxr_jax: this one knows no '
            f'{", ".join(unknown)} of {type(default).__name__}. Use the version that wrote it.'
        )
    changes = {}
    for name, field in fields.items():
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            changes[name] = restored(current, entries.get(name, {}), where)
        elif name in entries:
            changes[name] = _tuples(entries[name])
        elif 'neutral' in field.metadata:
            changes[name] = field.metadata['neutral']
    return dataclasses.replace(default, **changes)


def derived_of(settings) -> dict:
    """The fields that `resolve` filled in, as plain JSON: not in a key, but in a description."""
    fields = [field for field in dataclasses.fields(settings) if field.metadata.get('derived')]
    return {field.name: plain(getattr(settings, field.name)) for field in fields}


def key_of(content: Mapping) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of `content` and the FORMAT."""
    whole = {'format': FORMAT, **content}
    canonical = json.dumps(whole, sort_keys=True, separators=(',', ':'), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def plain(value):
    """Settings as JSON keeps them: tuples become lists."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def differences(before: Mapping, now: Mapping) -> str:
    """One line for each entry of two nested dicts that is not the same in both."""
    old, new = _flat(before), _flat(now)
    return '\n'.join(
        f'  {name}: {old.get(name)!r}, {new.get(name)!r}'
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def _flat(tree: Mapping, prefix: str = '') -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = value
    return flat
