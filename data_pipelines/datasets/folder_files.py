"""The files of a folder of images, at any depth, told apart by their content."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.datasets.base import LUNG_MASKS
from data_pipelines.errors import UserError
from data_pipelines.progress import with_progress
from data_pipelines.raw.kinds import DICOMDIR, kind_of, read_head

LEFT_OUT = (LUNG_MASKS, '__MACOSX')
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.dcm', '.dicom')
TABLE_SUFFIXES = ('.csv', '.csv.gz', '.tsv', '.xls', '.xlsx')


@dataclass
class Found:
    """Paths below the folder: `images` with their kind (raw.kinds), `tables`, `others`, and
    `rejected`, with reasons: files that are called images and are none."""

    images: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def find_files(source: Path) -> Found:
    """Hidden files and folders, DICOMDIR files and the folders LEFT_OUT are passed over. UserError
    for a folder that cannot be listed."""
    root, found = os.fspath(source), Found()
    paths = sorted(_walk(root))
    for path in with_progress(paths, len(paths), 'listing', 'file'):
        try:
            kind = kind_of(read_head(f'{root}/{path}'))
        except OSError as error:
            found.rejected.append((path, f'cannot be read: {error.strerror}'))
            continue
        name = path.lower()
        if kind == DICOMDIR:
            continue
        if kind:
            found.images[path] = kind
        elif name.endswith(IMAGE_SUFFIXES):
            found.rejected.append((path, 'not a DICOM, PNG or JPEG file'))
        elif name.endswith(TABLE_SUFFIXES):
            found.tables.append(path)
        else:
            found.others.append(path)
    return found


def by_suffix(paths: Iterable[str]) -> str:
    """'.tif 3, .txt 1': how many files have which suffix. What is long or begins with no letter is
    none: it may be a part of a name or of an id."""
    suffixes = (re.search(r'\.[a-z][a-z0-9]{0,4}$', path.lower()) for path in paths)
    counts = Counter(suffix[0] if suffix else 'no suffix' for suffix in suffixes)
    return ', '.join(f'{suffix} {n}' for suffix, n in counts.most_common())


def readable(name: str) -> str:
    """A file's name as text to show and compare: one that is not UTF-8 is read as Windows-1252, and
    letters with accents are one sign, which they are not on every system."""
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode('cp1252', errors='replace')
    return unicodedata.normalize('NFC', name)


def _walk(root: str) -> Iterator[str]:
    """The paths of all files below a folder; of folders that links lead to, each once."""
    pending, seen = [''], {_identity(root)}
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(f'{root}/{folder}'), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f'The folder {root}/{folder} cannot be listed ({error.strerror}). Make it '
                'readable, or move it away.'
            ) from None
        for entry in entries:
            if entry.name.startswith('.'):
                continue
            path = folder + entry.name
            if not _is_folder(entry):
                yield path
            elif entry.name not in LEFT_OUT:
                identity = _identity(f'{root}/{path}')
                if identity not in seen:
                    seen.add(identity)
                    pending.append(f'{path}/')


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
