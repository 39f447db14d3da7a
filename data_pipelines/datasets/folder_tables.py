"""What a table says about the images of a folder, whatever its columns are called."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path

from data_pipelines.datasets.base import read_table, table_columns
from data_pipelines.datasets.folder_files import readable
from data_pipelines.errors import UserError

METADATA = 'metadata.csv'
FINDING = 'finding:'
KNOWN_COLUMNS = ('file', 'patient', 'label', 'sex', 'age', 'view', 'source', 'lung_mask')
# What --columns may name.
NAMES = (*KNOWN_COLUMNS, 'study', 'split', 'findings')
HINT = (
    'Say with --columns which of its columns are meant: --columns file=<its name>,label=<its name>,'
    'patient=<its name>.'
)


class FileNames:
    """Finds images by what tables call them: a path relative to the table, the end of a path, or
    its name, with or without suffix."""

    def __init__(self, source: Path, images: Iterable[str]):
        self.source = source
        self._root = _real(source)
        self._by_path = {f'{self._root}/{readable(image)}': image for image in images}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        result = defaultdict(list)
        for path in self._by_path:
            name = os.path.basename(path)
            for each in {name, _stem(name)}:
                result[each].append(path)
        return result

    def at(self, path: Path) -> str | None:
        """The image at a path."""
        return self._by_path.get(f'{_real(path.parent)}/{readable(path.name)}')

    def find(self, cell: str, table: Path) -> str | None:
        """The image that a cell of a table means; UserError if it may be two."""
        wanted = readable(cell).replace('\\', '/')
        exact = self._by_path.get(os.path.normpath(os.path.join(_real(table.parent), wanted)))
        if exact is not None or not wanted:
            return exact
        end = f'/{wanted.lstrip("./")}'
        hits = [
            path
            for path in self._by_name.get(os.path.basename(wanted), ())
            if path.endswith(end) or _stem(path).endswith(end)
        ]
        if len(hits) > 1:
            two = ' and '.join(os.path.relpath(path, self._root) for path in hits[:2])
            raise UserError(
                f'{table} names the file {cell!r}, which may be {two}. Write the path into the '
                'table, relative to it.'
            )
        return self._by_path[hits[0]] if hits else None


@cache
def _real(folder: Path) -> str:
    return readable(os.path.realpath(folder))


def _stem(path: str) -> str:
    """Without a suffix of letters; 1.2.840 has none."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix[1:2].isalpha() else path


def read_metadata(source: Path, metadata: str, columns: str) -> tuple[Path | None, list[dict]]:
    """The table of a folder and its rows, None and [] without one; UserError.

    A row has the names of KNOWN_COLUMNS that the table has, `lung_mask` as a path, the columns
    finding:<name>, and 'columns', a dict of the others. With `columns` ('file=image_id,label=dx',
    'findings=Mass+Effusion') it has those that are named, and 'study' and 'split', and no others.
    """
    table = Path(metadata) if metadata else source / METADATA
    if metadata and not table.is_file():
        table = source / metadata
    if not table.is_file():
        if metadata or columns:
            raise UserError(
                f'There is no table {table}. Name the csv file that says what the images show with '
                '--metadata.'
            )
        return None, []
    if columns:
        wanted = _parse(columns)
        read = read_table(table, wanted.values(), HINT)
        rows = [{ours: row[theirs] for ours, theirs in wanted.items()} for row in read]
    else:
        rows = [_known(row) for row in read_table(table, ('file',), HINT)]
    for row in rows:
        row.setdefault('columns', {})
        if row.get('label', '').lower() == 'nan':  # how some programs write an empty cell
            row['label'] = ''
        if row.get('lung_mask'):
            row['lung_mask'] = table.parent / row['lung_mask']
    return table, rows


def _known(row: dict[str, str]) -> dict:
    known = {k: v for k, v in row.items() if k in KNOWN_COLUMNS or k.startswith(FINDING)}
    return known | {'columns': {k: v for k, v in row.items() if k not in known}}


def _parse(columns: str) -> dict[str, str]:
    """'file=image_id,findings=Mass+Effusion' as {our name: the table's}; UserError."""
    result = {}
    for text in columns.split(','):
        ours, _, theirs = (part.strip() for part in text.partition('='))
        if ours not in NAMES or not theirs:
            raise UserError(
                f"--columns has {text.strip()!r}. Write NAME=COLUMN, where COLUMN is a column of "
                f'the table and NAME one of {", ".join(NAMES)}; several columns of findings as '
                'findings=COLUMN+COLUMN.'
            )
        if ours == 'findings':
            result |= {FINDING + name.strip(): name.strip() for name in theirs.split('+')}
        else:
            result[ours] = theirs
    if 'file' not in result:
        raise UserError(
            f'--columns {columns} does not say which column names the files. Add file=COLUMN.'
        )
    return result


def match_rows(
    table: Path, rows: Sequence[dict], names: FileNames, images: Sequence[str], notes: list[str]
) -> dict[str, dict]:
    """{image: its row}, {} for images without one; UserError for two rows that contradict each
    other and for a table of other images."""
    result, number_of, repeated, unknown = {image: {} for image in images}, {}, 0, 0
    for number, row in enumerate(rows, start=1):
        image = names.find(row['file'], table)
        if image is None:
            unknown += 1
            continue
        if image in number_of:
            _compare(table, image, (number_of[image], number), (result[image], row))
            repeated += row['columns'] != result[image]['columns']
        else:
            number_of[image], result[image] = number, row
    if not number_of:
        called = f', such as {rows[0]["file"]!r}' if rows else ''
        raise UserError(
            f'No row of {table} names an image of {names.source}. Its column file (or that of '
            f'--columns file=...) must hold paths relative to {table.parent}, names or names '
            f'without suffix{called}; an image is called {images[0]!r}.'
        )
    if unknown:
        notes.append(f'{unknown} of {len(rows)} rows of {table.name} name no image.')
    if repeated:
        notes.append(
            f'{repeated} rows of {table.name} repeat an image with other values in columns that '
            'are only kept; the first row counts.'
        )
    without = len(images) - len(number_of)
    if without:
        notes.append(f'{without} of {len(images)} images have no row in {table.name}.')
    return result


def _compare(
    table: Path, image: str, numbers: tuple[int, int], rows: tuple[dict, dict]
) -> None:
    for column in rows[0]:
        first, second = (row[column] for row in rows)
        if column not in ('file', 'columns') and first != second:
            raise UserError(
                f'{table}: rows {numbers[0]} and {numbers[1]} contradict each other about {image}: '
                f"{column} is '{first}' and '{second}'. Keep one of them; several findings of an "
                'image are joined by |.'
            )


def name_unused(source: Path, tables: Sequence[str], notes: list[str], most: int = 3) -> None:
    """Say of tables that nothing was read from them, and what would."""
    for name in tables[:most]:
        try:
            columns = table_columns(source / name)
        except UserError as error:
            notes.append(f'{name} was not used. {str(error).replace(str(source / name), "It")}')
            continue
        shown = ', '.join(columns[:20]) + (', ...' if len(columns) > 20 else '')
        notes.append(
            f'{name} lies beside the images and was not used; its columns are {shown}. Use it with '
            f'--metadata {name} --columns file=...,label=...,patient=...'
        )
    if tables[most:]:
        notes.append(f'{len(tables) - most} more tables were not used.')
