"""The private table of a prepared set that says from which raw file each image comes.

It is what joins predictions back to files, and the only place where raw names are kept: beside the
salt of the data folder, readable by its owner only, outside the prepared set, which may be shared.
A set without it can be used all the same.
"""

import csv
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

FOLDER = '.keys'
HEADER = ('image_id', 'file')


def key_file(directory: Path) -> Path:
    """<data_dir>/.keys/<name>-<size>px.csv of a prepared set in `directory`."""
    return directory.parents[1] / FOLDER / f'{directory.parent.name}-{directory.name}.csv'


def write_key_file(directory: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes (image id, path below the source folder) of a set, mode 0600."""
    path = key_file(directory)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_suffix(f'.{uuid.uuid4().hex}.tmp')
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    # Names of files may be no valid UTF-8.
    with os.fdopen(descriptor, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        csv.writer(file).writerows([HEADER, *rows])
    os.replace(temporary, path)


def read_key_file(directory: Path) -> dict[str, str]:
    """{image id: path below the source folder}; {} where the set has no key file."""
    path = key_file(directory)
    if not path.is_file():
        return {}
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        return {row['image_id']: row['file'] for row in csv.DictReader(file)}
