"""Files that are there whole or not at all, also after a crash or on a full disk."""

import json
import os
import pathlib
from collections.abc import Callable


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, forces it to disk, then renames it."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """`text` in UTF-8, by write_atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def write_json(path: pathlib.Path, content: dict) -> None:
    """`content` as an indented JSON file, by write_atomically."""
    write_text(path, json.dumps(content, indent=2))


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames within one folder, and forces the new name to disk."""
    os.rename(source, target)
    _sync(target.parent)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
