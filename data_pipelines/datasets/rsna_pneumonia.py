"""RSNA Pneumonia Detection Challenge, exactly as Kaggle's archive unpacks.

    <source>/stage_2_train_images/<patientId>.dcm
    <source>/stage_2_train_labels.csv           patientId, x, y, width, height, Target
    <source>/stage_2_detailed_class_info.csv    patientId, class

Both tables have a row per box, so an image comes several times. `patientId`, which the headers
repeat as PatientID, is of an image: no patient is known unless a table tells whose an image is.
The images are part of NIH ChestX-ray14. There is no official split of the labelled images.
"""

from collections import defaultdict
from pathlib import Path

from data_pipelines.datasets.base import Item, Listing, existing_folder, number, one_of
from data_pipelines.datasets.nih14 import patient_name
from data_pipelines.datasets.tables import files_below, leftovers, read_columns
from data_pipelines.errors import UserError

CLASSES = ('Normal', 'No Lung Opacity / Not Normal', 'Lung Opacity')
BOX_TABLE = 'stage_2_train_labels.csv'
CLASS_TABLE = 'stage_2_detailed_class_info.csv'
IMAGES = 'stage_2_train_images'

LICENCE = 'the competition rules of the RSNA Pneumonia Detection Challenge (Kaggle)'


def list_items(source: Path, *, patients: str = '') -> Listing:
    """List the images of <source>; see the module for the layout.

    `patients`: a csv file with the columns image (a patientId) and patient (the number of the
    patient in NIH ChestX-ray14). UserError.
    """
    existing_folder(source)
    classes = _classes(source / CLASS_TABLE)
    boxes = _boxes(source / BOX_TABLE)
    if classes.keys() != boxes.keys():
        odd = min(classes.keys() ^ boxes.keys())
        raise UserError(
            f'Only one of {CLASS_TABLE} and {BOX_TABLE} has {odd}. The two files must come from '
            'the same release.'
        )
    people = {
        image: patient_name(patient, patients)
        for image, patient in (
            read_columns(Path(patients), ('image', 'patient')) if patients else ()
        )
    }
    files = {path.removesuffix('.dcm'): path for path in files_below(source / IMAGES, ('.dcm',))}
    items, missing = [], []
    for image, name in classes.items():
        relative = f'{IMAGES}/{image}.dcm'
        if files.pop(image, None) is None:
            missing.append(relative)
            continue
        items.append(
            Item(
                path=source / relative,
                relative=relative,
                labels=one_of(CLASSES, name),
                patient=people.get(image),
                boxes=boxes[image],
                columns={'box_findings': [name] * len(boxes[image])} if boxes[image] else {},
            )
        )
    unlisted = [f'{IMAGES}/{path}' for path in files.values()]
    left = leftovers(CLASS_TABLE, len(items), missing, unlisted)
    without = sum(item.patient is None for item in items)
    if people and without:
        left['notes'].append(f'{patients} does not tell the patients of {without} images.')
    return Listing(items, CLASSES, **left)


def _classes(table: Path) -> dict[str, str]:
    """{image: class}."""
    classes = {}
    for image, name in read_columns(table, ('patientId', 'class')):
        if name not in CLASSES or classes.setdefault(image, name) != name:
            raise UserError(
                f'{table}: {image} has the class {name!r}, which must be one and the same of '
                f'{", ".join(CLASSES)} in all its rows.'
            )
    return classes


def _boxes(table: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    """{image: its boxes (x, y, w, h), each once}."""
    boxes = defaultdict(dict)
    columns = ('patientId', 'x', 'y', 'width', 'height', 'Target')
    for image, *cells, target in read_columns(table, columns):
        box = tuple(number(cell) for cell in cells)
        said = all(value == value for value in box)
        if target != str(int(said)):
            raise UserError(f'{table}: {image} must have a box where Target is 1, and none else.')
        boxes[image] |= {box: None} if said else {}
    return {image: tuple(own) for image, own in boxes.items()}
