"""MURA v1.1, radiographs of the upper limb, as the archive unpacks.

    <source>/[MURA-v1.1/]<split>/XR_<PART>/patient<n>/study<k>_<positive|negative>/image<m>.png
    <source>/[MURA-v1.1/]<split>_image_paths.csv        paths, without a header
    <source>/[MURA-v1.1/]<split>_labeled_studies.csv    folders of studies, 0 or 1; no header

<split> is train or valid; what the data set calls test was never published. Labels are per study
and are copied to its images. A patient may have studies of several parts. Small images are padded,
not enlarged.
"""

import csv
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, one_of
from data_pipelines.errors import UserError

CLASSES = ('negative', 'positive')
PARTS = ('ELBOW', 'FINGER', 'FOREARM', 'HAND', 'HUMERUS', 'SHOULDER', 'WRIST')
TOP = 'MURA-v1.1'
# The published validation studies are what others test on; ours are drawn from train.
SPLITS = {'train': 'train', 'valid': 'test'}

LICENCE = 'Stanford University School of Medicine MURA Dataset Research Use Agreement'


def list_items(source: Path, *, part: str = '') -> Listing:
    """List the images of <source>, or those of one part of the limb; see the module."""
    existing_folder(source)
    if part and part.upper() not in PARTS:
        raise UserError(f'--options part={part} is none of MURA; choose one of {", ".join(PARTS)}.')
    top = source / TOP if (source / TOP).is_dir() else source
    items, rejected = [], []
    for split in SPLITS:
        labels, listed = _labels(top / f'{split}_labeled_studies.csv'), set()
        table = top / f'{split}_image_paths.csv'
        for row in _rows(table, 1):
            path = top / _inside(row[0])
            if part and path.parts[-4] != f'XR_{part.upper()}':
                continue
            listed.add(path)
            relative = path.relative_to(source).as_posix()
            study = path.parent.relative_to(top).as_posix()
            if study not in labels:
                raise UserError(
                    f'{table} names {relative}, whose study {split}_labeled_studies.csv lacks. The '
                    'files must come from the same release.'
                )
            if not path.is_file():
                rejected.append((relative, f'listed in {table.name}, but there is no such file'))
            else:
                items.append(_item(path, relative, split, labels[study]))
        found = top.glob(f'{split}/XR_{part.upper() or "*"}/*/*/[!.]*.png')
        rejected += [
            (path.relative_to(source).as_posix(), f'not listed in {table.name}')
            for path in sorted(set(found) - listed)
        ]
    return Listing(items, CLASSES, rejected=rejected)


def _item(path: Path, relative: str, split: str, label: str) -> Item:
    part, patient, study = path.parts[-4:-1]
    return Item(
        path=path,
        relative=relative,
        labels=one_of(CLASSES, label),
        patient=patient,
        study=f'{part}/{patient}/{study}',
        split=SPLITS[split],
        source=part.removeprefix('XR_'),
        enlarge=False,
    )


def _labels(table: Path) -> dict[str, str]:
    """{folder of a study below the top: its class}; UserError if the folder's name denies it."""
    labels = {}
    for folder, positive in _rows(table, 2):
        label = CLASSES[positive.strip() in ('1', '1.0')]
        if not folder.rstrip('/').endswith(f'_{label}'):
            raise UserError(f'{table} calls {folder} {label}, the name of its folder does not.')
        labels[_inside(folder)] = label
    return labels


def _rows(table: Path, columns: int) -> list[list[str]]:
    """The rows of a csv file without a header."""
    if not table.is_file():
        raise UserError(f'{table} is missing. Download it with the data set, or correct --source.')
    with table.open(newline='', encoding='utf-8-sig') as file:
        rows = [row for row in csv.reader(file) if row]
    if any(len(row) != columns for row in rows):
        raise UserError(
            f'{table} must have {columns} column(s) and no header. Check that it is the unchanged '
            'file of the data set.'
        )
    return rows


def _inside(path: str) -> str:
    """'MURA-v1.1/train/XR_HAND/...' without the first folder and the slash at the end."""
    return path.strip().partition('/')[2].rstrip('/')
