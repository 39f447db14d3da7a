"""Files that are there whole or not at all, also after a crash or on a full disk."""

import hashlib
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Callable

from data_pipelines.errors import UserError


class Damaged(UserError):
    """The bytes of a file are not those that were written."""


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, forces it to disk, then renames it."""
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """`text` in UTF-8, by write_atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def write_json(path: pathlib.Path, content: dict) -> None:
    """`content` as an indented JSON file, by write_atomically."""
    write_text(path, json.dumps(content, indent=2))


def read_json(path: pathlib.Path) -> dict:
    """A JSON object; Damaged if the file holds anything else, OSError if it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Damaged(f'{path} is damaged: it is no JSON ({error}).') from None
    if not isinstance(content, dict):
        raise Damaged(f'{path} is damaged: it holds no JSON object.')
    return content


def write_sealed(path: pathlib.Path, content: dict) -> dict:
    """`content`, which has a `format`, with its own hash as `sha256`; returns what is there."""
    sealed = seal(content)
    write_json(path, sealed)
    return sealed


def seal(content: dict) -> dict:
    """`content` as JSON has it (names are text, tuples lists), with its hash as `sha256`."""
    content = json.loads(json.dumps(content))
    return content | {'sha256': _json_sha256(content)}


def read_sealed(path: pathlib.Path, known_format: int) -> dict:
    """What write_sealed wrote. Damaged if it is not that, UserError if its format is another."""
    content = read_json(path)
    if 'format' not in content:
        raise Damaged(f'{path} is damaged: it does not tell its format.')
    # First: another format may have another seal.
    if content['format'] != known_format:
        raise UserError(
            f'{path} has format {content["format"]!r}; this version of cxr_jax reads format '
            f'{known_format}. Use the version that wrote it, or move {path.parent} away: what was '
            'in it is then trained anew.'
        )
    told = content.pop('sha256', None)
    if told != _json_sha256(content):
        raise Damaged(f'{path} is damaged: its content is not what was written.')
    return content | {'sha256': told}


def _json_sha256(content: dict) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()


def exists(path: pathlib.Path) -> bool:
    """Whether there is a file or folder; an OSError where the system does not say."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames within one folder, and forces the new name to disk."""
    os.rename(source, target)
    sync(target.parent)


def set_aside(folder: pathlib.Path) -> pathlib.Path:
    """Renames a folder to the first free of `.broken`, `.broken.2`, ...; returns what it is now."""
    for number in itertools.count(1):
        suffix = '.broken' if number == 1 else f'.broken.{number}'
        aside = folder.with_name(folder.name + suffix)
        if not exists(aside):
            rename(folder, aside)
            return aside


def sync(path: pathlib.Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
