"""Large tables of a data set, and which of the files that they name are there."""

import csv
import gzip
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from data_pipelines.errors import UserError

# So many files without a row, or rows without a file, are told one by one.
FEW = 100
OLDEST = 120  # years; the table of 2017 has 414
UNITS = {'': 1.0, 'Y': 1.0, 'M': 1 / 12, 'W': 1 / 52.18, 'D': 1 / 365.25}


def read_rows(path: Path, start: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a csv file (.gz: compressed) without its header, which begins with `start`.

    For tables that are read by position. Cells are stripped and empty lines left out; UserError.
    """
    rows = _lines(path)
    header = next(rows, [])
    if header[: len(start)] != list(start):
        raise UserError(
            f'{path} begins with {header[: len(start)]}, not with {list(start)}. Check that it is '
            'the unchanged file of the data set.'
        )
    return rows


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The cells of two or more `columns` of a csv file (.gz: compressed), row by row; UserError."""
    rows = _lines(path)
    header = next(rows, [])
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f'{path} lacks the columns {missing}; it has {header}. Check that it is the unchanged '
            'file of the data set.'
        )
    positions = [header.index(name) for name in columns]
    chosen, needed = itemgetter(*positions), max(positions) + 1
    for row in rows:
        if len(row) < needed:
            raise UserError(f'{path} is cut off or damaged: a row is {",".join(row)}.')
        yield chosen(row)


def header_of(path: Path) -> list[str]:
    """The names of the columns of a csv file; UserError."""
    return next(_lines(path), [])


def _lines(path: Path) -> Iterator[list[str]]:
    if not path.is_file():
        raise UserError(f'{path} is missing. Download it with the data set, or correct --source.')
    opened = gzip.open if path.suffix == '.gz' else open
    try:
        with opened(path, 'rt', newline='', encoding='utf-8-sig') as file:
            for row in csv.reader(file):
                if row:
                    yield [cell.strip() for cell in row]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f'{path} cannot be read ({type(error).__name__}). Download it again.'
        ) from None


def files_below(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Files of lower-case `suffixes` in a folder and all its folders: sorted POSIX paths below it.

    Nothing that is hidden; [] without such a folder.
    """
    found, folders = [], [''] if folder.is_dir() else []
    top, suffixes = f'{folder}/', tuple(suffixes)
    while folders:
        inside = folders.pop()
        with os.scandir(top + inside) as entries:
            for entry in entries:
                if entry.name.startswith('.'):
                    continue
                if entry.name.lower().endswith(suffixes):
                    found.append(inside + entry.name)
                elif entry.is_dir():
                    folders.append(f'{inside}{entry.name}/')
    return sorted(found)


def leftovers(
    table: str, used: int, missing: Sequence[str], unlisted: Iterable[str]
) -> dict[str, list]:
    """{'rejected', 'notes'} of a Listing for rows of `table` without a file and files without a
    row, `used` files having both.

    A few are set aside one by one. More than FEW are a part of the data set that was not
    downloaded, or copies of another: a note says how many, and nothing is set aside. UserError
    where no file is listed.
    """
    if not used:
        raise UserError(
            f'No file that {table} lists is in the source folder'
            + (f'; it lists {missing[0]}' if missing else '')
            + '. Unpack the images there as the page of the data set shows.'
        )
    rejected, notes = [], []
    for paths, reason, told in (
        (missing, f'listed in {table}, but there is no such file', 'are not in the source folder'),
        (list(unlisted), f'not listed in {table}', f'are not listed in {table} and not used'),
    ):
        if len(paths) <= FEW:
            rejected += [(path, reason) for path in paths]
        else:
            of = f' of {used + len(paths)} that {table} lists' if paths is missing else ''
            notes.append(f'{len(paths)} files{of} {told} (the first: {paths[0]}).')
    return {'rejected': rejected, 'notes': notes}


def years(text: str) -> float:
    """An age such as 58, 058Y or 018M in years; nan where it is none, or of nobody alive."""
    match = re.fullmatch(r'(\d+)([YMWD]?)', text)
    age = int(match[1]) * UNITS[match[2]] if match else float('nan')
    return age if age <= OLDEST else float('nan')
