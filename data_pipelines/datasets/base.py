"""What every data set says about itself: a list of images and what is known about each."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.errors import UserError

# A folder of this name holds lung masks as PNG files, never images.
LUNG_MASKS = 'lung_masks'


@dataclass(frozen=True)
class Item:
    """One image file and what the data set's tables say about it.

    Empty text, nan and () mean that the tables do not say; the file's own header then may.
    `labels` say of each name of the listing whether the image shows it: 1, 0, -1 (uncertain) or -2
    (not said). `patient` and `study` are raw ids. `split` is the data set's own: 'train',
    'validation' or 'test'. `boxes` are (x, y, w, h) in pixels of the file's image. Without
    `enlarge` an image that is smaller than the prepared one is padded instead.
    """

    path: Path
    relative: str  # POSIX path below the source folder: the image's name in every later run
    labels: tuple[int, ...] = ()
    patient: str = ''
    study: str = ''
    split: str = ''
    sex: str = ''
    age: float = float('nan')
    view: str = ''
    source: str = ''
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    lung_mask: Path | None = None
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


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a csv file, which must have `columns`; names and cells are stripped."""
    if not path.is_file():
        raise UserError(f'{path} is missing. Download it with the data set, or correct --source.')
    with path.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in columns if name not in names]
        if missing:
            raise UserError(
                f'{path} lacks the columns {missing}; it has {names}. Check that it is the '
                'unchanged file of the data set.'
            )
        reader.fieldnames = names
        return [{name: (row[name] or '').strip() for name in names} for row in reader]


def one_of(names: Sequence[str], name: str) -> tuple[int, ...]:
    """The labels of an image that shows `name` and no other of `names`."""
    return tuple(int(each == name) for each in names)


def number(text: str) -> float:
    """A csv cell as a number, nan when it is none."""
    try:
        return float(text)
    except ValueError:
        return float('nan')
