"""A volume of a scanner (CT, MRI), and 2-D pieces of it as grey values in [0, 1]."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_pipelines.raw.dicom_pixels import UnreadableRadiograph


@dataclass(frozen=True)
class Piece:
    """Which 2-D part of a volume an image is, and which of the volume's values become 0 and 1.

    A slice has a `number` along an `axis`, 0 for z, 1 for y, 2 for x. `centre` (row, column) and
    `side` are those of a square patch of the slice, in voxels; None: all of it. `window` (low,
    high): None stands for 0 and the volume's maximum. `state` is that of the volume's files, so
    that its text, a part of cache keys, changes when they do.
    """

    number: int
    state: str
    window: tuple[float, float] | None
    axis: int = 0
    centre: tuple[int, int] | None = None
    side: int = 0


@dataclass(frozen=True)
class Volume:
    """A volume whose voxels are read when they are first asked for.

    `shape`, `spacing` (mm) and `origin` (mm, the centre of the first voxel) are in the order z, y,
    x, where x points to the patient's left, y to the back and z to the head, but for the slices of
    a DICOM series, which are as stored. nan: the header does not say. `header` is as that of
    dicom.Radiograph. `load` gives the voxels [z, y, x], as an array or one slice at a time.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    files: tuple[Path, ...]
    header: dict
    load: Callable[[], Sequence[np.ndarray]]
    modality: str = ''  # of DICOM: CT, MR, ...

    @cached_property
    def voxels(self) -> Sequence[np.ndarray]:
        return self.load()

    @cached_property
    def maximum(self) -> float:
        """The largest finite value."""
        largest = float('-inf')
        for number in range(self.shape[0]):
            values = self.voxels[number]
            finite = values[np.isfinite(values)]
            largest = max(largest, float(finite.max())) if finite.size else largest
        return largest

    @cached_property
    def state(self) -> str:
        """Changes with the name, size or time of any of the files."""
        found = [(file.name, file.stat()) for file in self.files]
        parts = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def slice(self, axis: int, number: int) -> np.ndarray:
        """[rows, columns], with the head on top where z is shown; UnreadableRadiograph if there is
        none of this number."""
        if not 0 <= number < self.shape[axis]:
            raise UnreadableRadiograph(
                f'slice {number} is asked for, the volume has {self.shape[axis]}'
            )
        if axis == 0:
            return self.voxels[number]
        return np.take(self.voxels, number, axis)[::-1]


def cut(volume: Volume, piece: Piece) -> np.ndarray:
    """The piece as float32 [rows, columns] in [0, 1]; what lies outside the slice, and what is no
    number, is 0. Raises UnreadableRadiograph."""
    values = volume.slice(piece.axis, piece.number)
    low, high = piece.window or (0.0, volume.maximum)
    if not low < high:
        raise UnreadableRadiograph('no voxel of the volume is above 0')
    if piece.centre is not None:
        values = _patch(values, piece.centre, piece.side, low)
    grey = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(np.where(np.isfinite(grey), grey, 0), 0, 1)


def _patch(values: np.ndarray, centre: tuple[int, int], side: int, fill: float) -> np.ndarray:
    """float32 [side, side]; where side is even, the centre opens the second half."""
    if not all(0 <= at < length for at, length in zip(centre, values.shape, strict=True)):
        raise UnreadableRadiograph('the centre of the patch lies outside the volume')
    patch = np.full((side, side), fill, np.float32)
    inside, outside = [], []
    for at, length in zip(centre, values.shape, strict=True):
        start = at - side // 2
        low, high = max(start, 0), min(start + side, length)
        outside.append(slice(low, high))
        inside.append(slice(low - start, high - start))
    patch[tuple(inside)] = values[tuple(outside)]
    return patch
