"""The private table of a prepared set that says from which raw file each image comes.

It is what joins predictions back to files, and the only place where raw names are kept: beside the
salt of the data folder, readable by its owner only, outside the prepared set, which may be shared.
A set without it can be used all the same.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.files import replacing

FOLDER = '.keys'
HEADER = ('image_id', 'file')


def key_file(directory: Path) -> Path:
    """<data_dir>/.keys/<name>-<size>px.csv of a prepared set in `directory`."""
    return directory.parents[1] / FOLDER / f'{directory.parent.name}-{directory.name}.csv'


def write_key_file(directory: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes (image id, path below the source folder) of a set, mode 0600."""
    path = key_file(directory)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Names of files may be no valid UTF-8.
    text = {'newline': '', 'encoding': 'utf-8', 'errors': 'surrogateescape'}
    with replacing(path, 0o600) as new, new.open('w', **text) as file:
        csv.writer(file).writerows([HEADER, *rows])


def read_key_file(directory: Path) -> dict[str, str]:
    """{image id: path below the source folder}; {} where the set has no key file."""
    path = key_file(directory)
    if not path.is_file():
        return {}
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        return {row['image_id']: row['file'] for row in csv.DictReader(file)}
