"""SIIM-FISABIO-RSNA COVID-19 Detection, exactly as Kaggle's archive unpacks.

    <source>/train/<study>/<series>/<image>.dcm
    <source>/train_study_level.csv     id, four 0/1 columns of which one is 1
    <source>/train_image_level.csv     id, boxes, label, StudyInstanceUID
    <source>/lung_masks/<image>.png    optional, not part of Kaggle's archive

Labels are per study and are copied to its images: an image of a positive study may have no box.
The patient is known only to the DICOM headers.
"""

import ast
from pathlib import Path

from data_pipelines.datasets.base import LUNG_MASKS, Item, Listing, existing_folder, read_table
from data_pipelines.errors import UserError

CLASSES = ('negative', 'typical', 'indeterminate', 'atypical')
LABEL_COLUMNS = (
    'Negative for Pneumonia',
    'Typical Appearance',
    'Indeterminate Appearance',
    'Atypical Appearance',
)
STUDY_TABLE = 'train_study_level.csv'
IMAGE_TABLE = 'train_image_level.csv'

LICENCE = 'the competition rules of SIIM-FISABIO-RSNA COVID-19 Detection (Kaggle)'


def list_items(source: Path) -> Listing:
    """List the images of <source>; see the module for the layout."""
    existing_folder(source)
    labels = _study_labels(source / STUDY_TABLE)
    rows = read_table(source / IMAGE_TABLE, ('id', 'boxes', 'StudyInstanceUID'))
    if not (source / 'train').is_dir():
        raise UserError(
            f'{source} has no folder train. Unpack the archive so that the images lie in '
            f'{source / "train"}/<study>/<series>/<image>.dcm.'
        )
    files = {path.stem: path for path in sorted((source / 'train').glob('*/*/*.dcm'))}

    items, rejected = [], []
    for row in rows:
        image, study = row['id'].removesuffix('_image'), row['StudyInstanceUID']
        if study not in labels:
            raise UserError(
                f'{source / IMAGE_TABLE} names the study {study}, which {STUDY_TABLE} lacks. '
                'The two files must come from the same release.'
            )
        path = files.pop(image, None)
        if path is None:
            missing = f'train/{study}/*/{image}.dcm'
            rejected.append((missing, f'listed in {IMAGE_TABLE}, but there is no such file'))
            continue
        mask = source / LUNG_MASKS / f'{image}.png'
        items.append(
            Item(
                path=path,
                relative=path.relative_to(source).as_posix(),
                labels=labels[study],
                study=study,
                boxes=_boxes(row['boxes'], image, source / IMAGE_TABLE),
                lung_mask=mask if mask.is_file() else None,
            )
        )
    rejected += [
        (path.relative_to(source).as_posix(), f'not listed in {IMAGE_TABLE}')
        for path in files.values()
    ]
    return Listing(items, CLASSES, rejected=rejected)


def _study_labels(path: Path) -> dict[str, tuple[int, ...]]:
    """{study: 1 or 0 for each of CLASSES}."""
    labels = {}
    for row in read_table(path, ('id', *LABEL_COLUMNS)):
        flags = [float(row[name] or 0) for name in LABEL_COLUMNS]
        if sorted(flags) != [0, 0, 0, 1]:
            raise UserError(
                f'{path}: study {row["id"]} has the labels {flags}; exactly one of the four '
                'columns must be 1.'
            )
        labels[row['id'].removesuffix('_study')] = tuple(int(flag) for flag in flags)
    return labels


def _boxes(text: str, image: str, path: Path) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes are a Python literal (single quotes, so not JSON), empty when there are none."""
    try:
        return tuple(
            (float(box['x']), float(box['y']), float(box['width']), float(box['height']))
            for box in (ast.literal_eval(text) if text else ())
        )
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: the boxes of image {image} cannot be read ({type(error).__name__}). '
            "Expected [{'x': .., 'y': .., 'width': .., 'height': ..}, ..] or nothing."
        ) from None
