"""The csv files and folders of SIIM-FISABIO-RSNA COVID-19 Detection."""
import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STUDY_COLUMNS = (
    'Negative for Pneumonia',
    'Typical Appearance',
    'Indeterminate Appearance',
    'Atypical Appearance',
)


@dataclass(frozen=True)
class ListedImage:
    """One image as the tables name it; boxes are x, y, width, height in its pixels."""

    study: str
    series: str
    image: str
    label: int
    boxes: list[tuple[float, float, float, float]]

    def dicom_path(self, root: Path) -> Path:
        return root / 'train' / self.study / self.series / f'{self.image}.dcm'

    def mask_path(self, root: Path) -> Path:
        return root / 'lung_masks' / f'{self.image}.png'


def _write_csv(path: Path, header: list[str], rows: Iterable[list]) -> None:
    temporary = path.with_name(f'.{path.name}.tmp')
    with temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(temporary, path)


def _box_columns(boxes: list[tuple[float, float, float, float]]) -> tuple[str, str]:
    """The columns `boxes` (a Python literal, not JSON) and `label` (corners) of one image."""
    if not boxes:
        return '', 'none 1 0 0 1 1'
    rounded = [[round(v, 5) for v in box] for box in boxes]
    names = ('x', 'y', 'width', 'height')
    literal = str([dict(zip(names, box, strict=True)) for box in rounded])
    corners = (f'opacity 1 {x} {y} {round(x + w, 5)} {round(y + h, 5)}' for x, y, w, h in rounded)
    return literal, ' '.join(corners)


def write_tables(root: Path, images: list[ListedImage]) -> None:
    """train_study_level.csv and train_image_level.csv, sorted by id as Kaggle's are."""
    studies = sorted({(i.study, i.label) for i in images})
    _write_csv(
        root / 'train_study_level.csv',
        ['id', *STUDY_COLUMNS],
        ([f'{study}_study', *np.eye(4, dtype=int)[label].tolist()] for study, label in studies),
    )
    _write_csv(
        root / 'train_image_level.csv',
        ['id', 'boxes', 'label', 'StudyInstanceUID'],
        (
            [f'{i.image}_image', *_box_columns(i.boxes), i.study]
            for i in sorted(images, key=lambda i: i.image)
        ),
    )


def write_splits(root: Path, split_of_patient: dict[str, str]) -> None:
    """splits.csv: the split of each DICOM PatientID, where a set prescribes it."""
    _write_csv(root / 'splits.csv', ['patient', 'split'], sorted(split_of_patient.items()))


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Boolean mask [H, W] as a png of 0 and 255, atomically."""
    temporary = path.with_name(f'.{path.name}.tmp')
    picture = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    picture.save(temporary, format='png', compress_level=1)
    os.replace(temporary, path)
