"""VinDr-CXR, as PhysioNet has it or in the release of the Kaggle competition.

    PhysioNet                                            Kaggle
    <source>/{train,test}/<image_id>.dicom               <source>/train/<image_id>.dicom
    <source>/annotations/image_labels_{train,test}.csv   <source>/train.csv
    <source>/annotations/annotations_{train,test}.csv

The folder annotations may be left out. Three radiologists read each image for training; the labels
of test images are a consensus, which has one row. PhysioNet has 27 findings and an official split,
Kaggle 14 and none, as the labels of its test images are not public. No patients are told.
"""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, number
from data_pipelines.datasets.tables import files_below, header_of, leftovers, read_columns
from data_pipelines.errors import UserError

KAGGLE = (
    'Aortic enlargement', 'Atelectasis', 'Calcification', 'Cardiomegaly', 'Consolidation', 'ILD',
    'Infiltration', 'Lung Opacity', 'Nodule/Mass', 'Other lesion', 'Pleural effusion',
    'Pleural thickening', 'Pneumothorax', 'Pulmonary fibrosis',
)  # fmt: skip
PHYSIONET = (
    'Aortic enlargement', 'Atelectasis', 'Calcification', 'Cardiomegaly', 'Clavicle fracture',
    'Consolidation', 'Edema', 'Emphysema', 'Enlarged PA', 'ILD', 'Infiltration', 'Lung Opacity',
    'Lung cavity', 'Lung cyst', 'Mediastinal shift', 'Nodule/Mass', 'Pleural effusion',
    'Pleural thickening', 'Pneumothorax', 'Pulmonary fibrosis', 'Rib fracture', 'Other lesion',
    'COPD', 'Lung tumor', 'Pneumonia', 'Tuberculosis', 'Other diseases',
)  # fmt: skip
NO_FINDING = 'No finding'  # Kaggle's class 14
CORNERS = ('x_min', 'y_min', 'x_max', 'y_max')
SUFFIXES = ('.dicom', '.dcm')

LICENCE = 'the PhysioNet Credentialed Health Data License, or the rules of the competition (Kaggle)'


def list_items(source: Path, *, readers: int = 2) -> Listing:
    """List the images of <source>; see the module for the layouts.

    An image shows a finding that `readers` of its readers saw (all, if it has fewer); one that
    fewer saw is uncertain. Raises UserError.
    """
    existing_folder(source)
    if readers < 1:
        raise UserError(f'--options readers={readers} must be 1 or more.')
    folder = source / 'annotations' if (source / 'annotations').is_dir() else source
    parts = [p for p in ('train', 'test') if (folder / f'image_labels_{p}.csv').is_file()]
    names = PHYSIONET if parts else KAGGLE
    official = len(parts) == 2
    items, missing, unlisted = [], [], []
    for part in parts or ['train']:
        if parts:
            seen = _seen_physionet(folder / f'image_labels_{part}.csv')
            boxes = _boxes(folder / f'annotations_{part}.csv')
        else:
            seen, boxes = _seen_kaggle(source / 'train.csv'), _boxes(source / 'train.csv')
        files = {
            path.rpartition('/')[2].rpartition('.')[0]: f'{part}/{path}'
            for path in files_below(source / part, SUFFIXES)
        }
        for image, readings in seen.items():
            relative = files.pop(image, None)
            if relative is None:
                missing.append(f'{part}/{image}.dicom')
                continue
            own = boxes.get(image, ())
            items.append(
                Item(
                    path=source / relative,
                    relative=relative,
                    labels=_agreed(readings, names, readers),
                    split=part if official else '',
                    boxes=tuple(box for _, _, box in own),
                    columns=_box_columns(own),
                )
            )
        unlisted += files.values()
    table = 'image_labels_train.csv or image_labels_test.csv' if parts else 'train.csv'
    return Listing(items, names, False, **leftovers(table, len(items), missing, unlisted))


def _seen_physionet(table: Path) -> dict[str, list[set[str]]]:
    """{image: what each of its readers saw}."""
    # The two tables name this column differently.
    last = 'Other disease' if 'Other disease' in header_of(table) else PHYSIONET[-1]
    columns, seen = (*PHYSIONET[:-1], last), defaultdict(list)
    for image, *cells in read_columns(table, ('image_id', *columns)):
        votes = [number(cell or '0') for cell in cells]
        if not set(votes) <= {0, 1}:
            raise UserError(f'{table}: a label of {image} is neither 0 nor 1: {cells}.')
        seen[image].append({name for name, vote in zip(PHYSIONET, votes, strict=True) if vote})
    return seen


def _seen_kaggle(table: Path) -> dict[str, list[set[str]]]:
    """{image: what each of its readers saw}."""
    seen = defaultdict(lambda: defaultdict(set))
    for image, name, reader in read_columns(table, ('image_id', 'class_name', 'rad_id')):
        if name not in (*KAGGLE, NO_FINDING):
            raise UserError(f'{table}: {image} has the unknown class {name!r}.')
        seen[image][reader] |= {name} - {NO_FINDING}
    return {image: list(readings.values()) for image, readings in seen.items()}


def _agreed(
    readings: Collection[set[str]], names: tuple[str, ...], readers: int
) -> tuple[int, ...]:
    """1 for what enough readers saw, -1 for what some saw, 0 for what none saw."""
    needed = min(readers, len(readings))
    votes = (sum(name in seen for seen in readings) for name in names)
    return tuple(1 if n >= needed else -1 if n else 0 for n in votes)


def _boxes(table: Path) -> dict[str, list[tuple[str, str, tuple[float, ...]]]]:
    """{image: [(finding, reader or '', (x, y, w, h)), ..]} of all readers."""
    by = ('rad_id',) if 'rad_id' in header_of(table) else ()
    boxes = defaultdict(list)
    for image, name, *cells in read_columns(table, ('image_id', 'class_name', *CORNERS, *by)):
        left, top, right, bottom = (number(cell) for cell in cells[:4])
        box = (left, top, right - left, bottom - top)
        if not any(cells[:4]):
            continue  # nothing was found, or something without a place
        if not (box[2] > 0 and box[3] > 0):
            raise UserError(f'{table}: the box {cells[:4]} of {image} has no area.')
        boxes[image].append((name, *(cells[4:] or ['']), box))
    return boxes


def _box_columns(boxes: Collection[tuple[str, str, tuple[float, ...]]]) -> dict[str, list[str]]:
    if not boxes:
        return {}
    named = {'box_findings': [name for name, _, _ in boxes]}
    readers = [reader for _, reader, _ in boxes]
    return named | ({'box_readers': readers} if any(readers) else {})
