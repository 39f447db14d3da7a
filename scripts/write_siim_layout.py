"""Write a folder of images as DICOM files in the layout of SIIM-FISABIO-RSNA COVID-19 Detection.

    python -m scripts.write_siim_layout SOURCE OUTPUT \
        --map no_finding=negative,pneumonia=typical,covid=indeterminate

SOURCE is an image folder as data_pipelines.datasets.image_folder describes it (class folders,
metadata.csv, lesion_boxes.csv, lung masks). The competition has four fixed classes, so --map says
which of them each class of the folder becomes; images of other classes are left out. Grey values
are stored with 12 bits and a window over their whole range, so that both folders prepare to the
same pixels; a part of the files is MONOCHROME1, JPEG 2000 or RLE, chosen by a hash of the path.
"""

import argparse
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.datasets.base import Item
from data_pipelines.datasets.image_folder import list_items
from data_pipelines.errors import UserError
from data_pipelines.prepared.index import YES
from data_pipelines.raw.dicom import read_image_file
from data_pipelines.raw.dicom_write import Storage, write_dicom
from data_pipelines.synthetic.cases import CLASSES
from data_pipelines.synthetic.siim_tables import ListedImage, write_mask, write_tables


def parse_map(text: str) -> dict[str, int]:
    """'a=negative,b=typical' to {'a': 0, 'b': 1}."""
    result = {}
    for pair in text.split(','):
        name, _, target = pair.partition('=')
        if target.strip() not in CLASSES or not name.strip():
            raise UserError(
                f"--map has '{pair}', which is not <class of the folder>=<one of "
                f'{", ".join(CLASSES)}>. Write for instance --map normal=negative,sick=typical.'
            )
        result[name.strip()] = CLASSES.index(target.strip())
    return result


def identity(level: str, relative: str) -> str:
    """12 hex digits, as the competition's ids have."""
    return hashlib.sha256(f'{level} {relative}'.encode()).hexdigest()[:12]


def storage_of(relative: str) -> Storage:
    """A quarter MONOCHROME1; 15 % each JPEG 2000 and RLE."""
    draw = hashlib.sha256(f'storage {relative}'.encode()).digest()
    share = draw[1] / 256
    syntax = 'jpeg_2000' if share < 0.15 else 'rle' if share < 0.3 else 'uncompressed'
    return Storage(bits=12, monochrome1=draw[0] < 64, syntax=syntax, window=(0.0, 1.0))


def header_of(item: Item, listed: ListedImage) -> dict:
    """Only what the folder's table says; the patient keeps the folder's id."""
    header = {
        'SOPInstanceUID': listed.image,
        'StudyInstanceUID': listed.study,
        'SeriesInstanceUID': listed.series,
        'Modality': 'DX',
        'BodyPartExamined': 'CHEST',
        'PatientID': item.patient,
        'PatientSex': item.sex,
        'ViewPosition': item.view,
        'InstitutionName': item.source,
    }
    if math.isfinite(item.age):
        header['PatientAge'] = f'{round(item.age):03d}Y'
    return {keyword: value for keyword, value in header.items() if value}


def convert(item: Item, label: int, root: Path) -> ListedImage:
    """Write one image and its mask; each image is a study of its own."""
    listed = ListedImage(
        *(identity(level, item.relative) for level in ('study', 'series', 'image')),
        label,
        list(item.boxes),
    )
    values = read_image_file(item.path).pixels
    if item.lung_mask is not None:
        with Image.open(item.lung_mask) as picture:
            mask = np.asarray(picture.convert('L')) > 127
        if mask.shape != values.shape:
            raise UserError(
                f'The lung mask {item.lung_mask} has {mask.shape} pixels, its image '
                f'{item.path} {values.shape}. Bring them to the same size.'
            )
        write_mask(listed.mask_path(root), mask)
    target = listed.dicom_path(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(target, values, storage_of(item.relative), header_of(item, listed))
    return listed


def write_layout(source: Path, output: Path, mapping: dict[str, int]) -> list[ListedImage]:
    """Convert every image of a mapped class; raises UserError for classes that do not exist."""
    listing = list_items(source)
    unknown = sorted(set(mapping) - set(listing.names))
    if unknown:
        raise UserError(
            f'{source} has no class {", ".join(unknown)}; it has {", ".join(listing.names)}. '
            'Correct --map.'
        )
    if not listing.exclusive:
        raise UserError(
            f'{source} has several findings an image, and the competition one class; write the '
            'class of each image into the column label of metadata.csv.'
        )
    if output.exists() and any(output.iterdir()):
        raise UserError(f'{output} is not empty. Choose a new folder or delete this one.')
    (output / 'lung_masks').mkdir(parents=True)
    listed = []
    for item in listing.items:
        name = listing.names[item.labels.index(YES)] if YES in item.labels else ''
        if name in mapping:
            listed.append(convert(item, mapping[name], output))
    write_tables(output, listed)
    return listed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='image folder to read')
    parser.add_argument('output', type=Path, help='new folder to write')
    parser.add_argument('--map', required=True, help='class=siim_class,... of the classes to take')
    args = parser.parse_args(argv)
    try:
        listed = write_layout(args.source, args.output, parse_map(args.map))
    except UserError as error:
        print(f'write_siim_layout: {error}', file=sys.stderr)
        return 2
    print(f'Wrote {len(listed)} images to {args.output}.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
