"""One image file to prepared arrays, kept as one small file per image until the set is built.

The cache makes a killed or extended run do only what is missing. It takes about as much room as
the prepared set and a few hundredths of the raw DICOM files, and may be deleted at any time. It
holds digests of ids (see identity.py), so its folder is readable by its owner only.
"""

import hashlib
import json
import math
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.datasets.base import Item
from data_pipelines.files import replacing
from data_pipelines.prepared.statistics import pixel_sums
from data_pipelines.preparing.identity import digest
from data_pipelines.raw.dicom import (
    UnreadableRadiograph,
    in_colour,
    read_image_file,
    read_radiograph,
)
from data_pipelines.raw.kinds import DICOM, image_kind
from data_pipelines.raw.resize import (
    pad_to_square_and_resize,
    prepared_spacing,
    resize_mask_nearest,
)
from data_pipelines.raw.volume import Piece
from data_pipelines.raw.volume_files import read_piece

# Part of every cache key: raise it when the same file would be prepared, or kept, differently.
DECODER_VERSION = 2
KEPT_HEADER = (
    'sex', 'age', 'view', 'source', 'bits', 'transfer_syntax', 'photometric', 'warnings',
)  # fmt: skip


@dataclass(frozen=True)
class FileTask:
    """What a worker process needs to prepare one image, and where it leaves the result."""

    path: Path
    relative: str
    lung_mask: Path | None
    size: int
    bits: int
    result: Path
    channels: int = 1
    least: int = 0  # side of the square that an image is padded to, see resize.py
    piece: Piece | None = None


@dataclass(frozen=True)
class IngestedImage:
    """A prepared image [R, R] (in colour [R, R, 3]) uint8 or uint16, its lung mask [R, R] 0/1 or
    None, and `meta`: sizes and spacings, header values, digests of ids and of pixels, sums for
    statistics."""

    image: np.ndarray
    lung_mask: np.ndarray | None
    meta: dict


def file_state(path: Path | None) -> tuple:
    """Size and time of change of a file; () when there is none."""
    if path is None:
        return ()
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else ()


def make_task(item: Item, size: int, bits: int, cache: Path, channels: int = 1) -> FileTask:
    # Relative paths, so that machines which mount the source elsewhere share the cache.
    mask = item.lung_mask and os.path.relpath(item.lung_mask, item.path.parent)
    key = (
        item.relative, item.piece or file_state(item.path), mask, file_state(item.lung_mask),
        size, bits, DECODER_VERSION,
    )  # fmt: skip
    if channels > 1 or not item.enlarge:  # others stay in the caches that there are
        key += (channels, item.enlarge)
    result = cache / f'{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npz'
    least = 0 if item.enlarge else size
    return FileTask(
        item.path, item.relative, item.lung_mask, size, bits, result, channels, least, item.piece
    )


def prepare_file(task: FileTask) -> str:
    """Prepare one image and write task.result; returns '' or the reason it cannot be read.

    An error of writing, such as a full disk, is raised: it is not the file's fault.
    """
    try:
        ingested = _prepare(task)
    except UnreadableRadiograph as error:
        return str(error)
    except Exception as error:
        # A decoder's own message may quote the header, which holds the patient's name.
        return f'{type(error).__name__} while decoding'
    arrays = {'image': ingested.image}
    if ingested.lung_mask is not None:
        arrays['lung_mask'] = np.packbits(ingested.lung_mask)
    arrays['meta'] = np.frombuffer(json.dumps(ingested.meta).encode(), np.uint8)
    with replacing(task.result) as new, new.open('wb') as file:
        np.savez(file, **arrays)
    return ''


def by_volume(tasks: Iterable[FileTask]) -> list[list[FileTask]]:
    """The tasks of each volume together, in their order; a task of a file of its own alone."""
    groups = {}
    for task in tasks:
        groups.setdefault(task.path if task.piece else task.result, []).append(task)
    return list(groups.values())


def prepare_volume(tasks: Sequence[FileTask]) -> list[str]:
    """prepare_file of the pieces of one volume, which is read once."""
    return [prepare_file(task) for task in tasks]


def load(result: Path) -> IngestedImage:
    """Read back what prepare_file wrote."""
    with np.load(result) as arrays:
        image = arrays['image']
        mask = None
        if 'lung_mask' in arrays:
            pixels = math.prod(image.shape[:2])
            mask = np.unpackbits(arrays['lung_mask'], count=pixels).reshape(image.shape[:2])
        return IngestedImage(image, mask, json.loads(arrays['meta'].tobytes()))


def load_meta(result: Path) -> dict:
    with np.load(result) as arrays:
        return json.loads(arrays['meta'].tobytes())


def quantise(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Values in [0, 1] to uint8 (bits 8) or uint16 (bits 16) over the whole range, rounded."""
    top = 2**bits - 1
    return np.rint(pixels * np.float32(top)).astype(np.uint8 if bits == 8 else np.uint16)


def prepare_image(
    path: Path,
    size: int,
    bits: int,
    channels: int = 1,
    least: int = 0,
    piece: Piece | None = None,
) -> tuple[np.ndarray, tuple[int, int], dict]:
    """Read, pad, resize and quantise one file or a piece of it: the image [size, size] (with 3
    channels [size, size, 3]), its (H, W) before and its header. Raises UnreadableRadiograph."""
    if piece is not None:
        radiograph = read_piece(path, piece)
    elif image_kind(path) == DICOM:
        radiograph = read_radiograph(path)
    else:
        radiograph = read_image_file(path, channels)
    pixels, header = radiograph.pixels, radiograph.header
    how = size, header['spacing'], least
    if channels == 1:
        resized = pad_to_square_and_resize(pixels, *how)
    else:
        planes = np.moveaxis(in_colour(pixels) if pixels.ndim == 2 else pixels, -1, 0)
        resized = np.stack([pad_to_square_and_resize(plane, *how) for plane in planes], axis=-1)
    return quantise(resized, bits), pixels.shape[:2], header


def _prepare(task: FileTask) -> IngestedImage:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # they are in the header, too, and go on the card
        image, shape, header = prepare_image(
            task.path, task.size, task.bits, task.channels, task.least, task.piece
        )
    spacing, how = header['spacing'], (task.size, header['spacing'], task.least)
    mask = None
    if task.lung_mask is not None:
        mask = resize_mask_nearest(_read_mask(task.lung_mask, shape), *how)
    meta = {
        'size': task.size,
        'original_size': shape,
        'original_spacing': spacing,
        'spacing': prepared_spacing(shape, *how),
        'patient': digest('patient', header['patient_id']) if header['patient_id'] else '',
        'study': digest('study', header['study_uid']) if header['study_uid'] else '',
        'image_hash': hashlib.sha256(image.tobytes()).hexdigest(),
        'mask_hash': '' if mask is None else hashlib.sha256(mask.tobytes()).hexdigest(),
        'sums': pixel_sums(image),
        'lung_sums': None if mask is None else pixel_sums(image[mask.astype(bool)]),
        **{name: header[name] for name in KEPT_HEADER},
    }
    return IngestedImage(image, mask, meta)


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A lung mask file as uint8 0/1 of the image's shape [H, W]; its brighter half is lung (255, or
    1). One of the image's proportions and another size is resized, nearest neighbour."""
    try:
        with Image.open(path) as file:
            values = np.asarray(file)
    except (OSError, ValueError, SyntaxError) as error:
        reason = f'its lung mask is unreadable ({type(error).__name__})'
        raise UnreadableRadiograph(reason) from None
    if values.ndim == 3:
        values = values[..., :3].max(axis=-1)
    if values.shape[0] * shape[1] != values.shape[1] * shape[0]:
        raise UnreadableRadiograph(
            f'its lung mask is {values.shape[0]} x {values.shape[1]}, '
            f'the image {shape[0]} x {shape[1]}'
        )
    centres = (
        (2 * np.arange(n) + 1) * own // (2 * n) for n, own in zip(shape, values.shape, strict=True)
    )
    return (values > values.max() / 2).astype(np.uint8)[np.ix_(*centres)]
