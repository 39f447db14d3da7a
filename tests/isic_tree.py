"""A miniature of ISIC 2019: smooth colours, so that JPEG keeps them; `grey` ones have three equal
channels."""

import csv

import numpy as np
from PIL import Image

from data_pipelines.datasets.isic2019 import CLASSES, IMAGES, LABELS, METADATA, UNKNOWN

HEADER = ('image', 'age_approx', 'anatom_site_general', 'lesion_id', 'sex')


def colours(number: int, grey: bool = False, size: int = 24) -> np.ndarray:
    """uint8 [size, size, 3]: slopes of other directions in each channel."""
    rng = np.random.default_rng(number)
    place = np.arange(size) / size
    rows, columns = rng.uniform(-60, 60, (2, 3))
    image = 128 + rng.uniform(-60, 60, 3)
    image = image + place[:, None, None] * rows + place[:, None] * columns
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return image[..., :1].repeat(3, -1) if grey else image


def write_table(path, header, rows) -> None:
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([header, *rows])


def write_isic(folder, shown: list[str], grey: bool = False) -> None:
    """Image k is of the class shown[k] and of lesion k // 2, named ISIC_<k>."""
    (folder / IMAGES).mkdir(parents=True)
    labels, facts = [], []
    for k, label in enumerate(shown):
        name = f'ISIC_{k:07}'
        Image.fromarray(colours(k, grey)).save(folder / IMAGES / f'{name}.jpg', quality=100)
        labels.append([name, *(float(label == each) for each in (*CLASSES, UNKNOWN))])
        facts.append([name, 50, 'upper extremity', f'HAM_{k // 2:07}', 'female'])
    write_table(folder / LABELS, ('image', *CLASSES, UNKNOWN), labels)
    write_table(folder / METADATA, HEADER, facts)
