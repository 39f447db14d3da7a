"""What every data set says about itself: a list of images and what is known about each."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.raw.volume import Piece

# A folder of this name holds lung masks as PNG files, never images.
LUNG_MASKS = 'lung_masks'
UNCHANGED = 'Check that it is the unchanged file of the data set.'


@dataclass(frozen=True)
class Item:
    """One image file and what the data set's tables say about it.

    Empty text, nan and () mean that the tables do not say; the file's own header then may.
    `labels` say of each name of the listing whether the image shows it: 1, 0, -1 (uncertain) or -2
    (not said). `patient` and `study` are raw ids; a patient of None is unknown even if the file's
    header has an id, which is not a person's. `split` is the data set's own: 'train',
    'validation' or 'test'. `boxes` are (x, y, w, h) in pixels of the file's image. `piece` says
    which part of a volume the image is; `path` may then be a folder of DICOM slices, and `relative`
    names the part, too. Without `enlarge` an image that is smaller than the prepared one is padded
    instead.
    """

    path: Path
    relative: str  # POSIX path below the source folder: the image's name in every later run
    labels: tuple[int, ...] = ()
    patient: str | None = ''
    study: str = ''
    split: str = ''
    sex: str = ''
    age: float = float('nan')
    view: str = ''
    source: str = ''
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    lung_mask: Path | None = None
    piece: Piece | None = None
    columns: dict[str, object] = field(default_factory=dict)
    enlarge: bool = True


@dataclass(frozen=True)
class Listing:
    """All images of a source folder.

    `names` of what the labels tell, () for a data set without any; `exclusive`: an image with
    labels shows exactly one of them. `rejected` are (path relative to the source, reason) of files
    that have no place in the set; `notes` are sentences for the data card. `channels` of a prepared
    image: 1, or 3 where the images are in colour.
    """

    items: list[Item]
    names: tuple[str, ...]
    exclusive: bool = True
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    channels: int = 1


def existing_folder(source: Path) -> Path:
    if not source.is_dir():
        raise UserError(
            f'The source folder {source} does not exist. Give the folder of the raw files with '
            '--source.'
        )
    return source


def read_table(
    path: Path, columns: Iterable[str], hint: str = UNCHANGED
) -> list[dict[str, str]]:
    """The rows of a csv file, which must have `columns`; names and cells are stripped.

    As spreadsheets write them: separated by comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252;
    also gzipped. UserError, which for lacking columns ends with `hint`.
    """
    names, reader = _open_table(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f'{path} lacks the columns {missing}; it has {names}. {hint}')
    try:
        return [{name: (row[name] or '').strip() for name in names} for row in reader]
    except csv.Error as error:
        raise UserError(
            f'{path}, line {reader.line_num}: {error}. Correct the line, or save the table again.'
        ) from None


def table_columns(path: Path) -> list[str]:
    """The names of the columns of a csv file as read_table reads it; UserError."""
    return _open_table(path)[0]


def _open_table(path: Path) -> tuple[list[str], csv.DictReader]:
    if not path.is_file():
        raise UserError(f'{path} is missing. Download it with the data set, or correct --source.')
    text = _text(path)
    first, _, rest = text.partition('\n')
    if first.lower().startswith('sep='):  # said by some spreadsheets, to some spreadsheets
        text, first = rest, rest.partition('\n')[0]
    unquoted = re.sub(r'"[^"]*"', '', first)
    reader = csv.DictReader(
        io.StringIO(text, newline=''), delimiter=max(',;\t', key=unquoted.count),
        skipinitialspace=True,
    )  # fmt: skip
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise UserError(f'{path}, line 1: {error}. Save the table again.') from None
    return reader.fieldnames, reader


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(b'\x1f\x8b'):
            data = gzip.decompress(data)
        if data.startswith((b'PK\x03\x04', b'\xd0\xcf\x11\xe0')):
            raise UserError(
                f'{path} is a spreadsheet, not a csv file. Open it and save the sheet as csv.'
            )
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode('utf-16')
        if b'\0' in data:
            raise UserError(f'{path} is no table of text. Save it as csv, in UTF-8.')
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f'{path} cannot be read ({getattr(error, "strerror", "") or error}). Make it readable, '
            'or save the table again.'
        ) from None
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError:
        return data.decode('cp1252', errors='replace')


def one_of(names: Sequence[str], name: str) -> tuple[int, ...]:
    """The labels of an image that shows `name` and no other of `names`."""
    return tuple(int(each == name) for each in names)


def number(text: str) -> float:
    """A csv cell as a number, nan when it is none."""
    try:
        return float(text)
    except ValueError:
        return float('nan')
