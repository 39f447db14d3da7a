"""What the miniature trees of data sets have in common."""

import gzip

import numpy as np
from PIL import Image

from tests.dicom_files import dataset


def write_image(path, number=0, side=16):
    """A PNG, JPEG or DICOM file, as its name says, of one grey value; see grey_of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side), grey_of(number), np.uint8)
    if path.suffix in ('.dcm', '.dicom'):
        write_dicom(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


def write_dicom(path, pixels, **elements):
    """`elements` are of the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(pixels, bits=8, **elements).save_as(path, enforce_file_format=True)


def grey_of(number):
    return 10 + 5 * number


def write_table(path, lines):
    """Lines of a csv file, compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = '\n'.join([*lines, '']).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


def by_name(listing):
    """{name of the file without its suffix: item}."""
    return {item.path.stem: item for item in listing.items}


def shown(listing, item, value=1):
    """The names of which an item's labels say `value`."""
    return {n for n, said in zip(listing.names, item.labels, strict=True) if said == value}
