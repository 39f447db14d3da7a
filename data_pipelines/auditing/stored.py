"""Looks and measures of a prepared set, kept beside its index: what audits need of its pixels."""

import itertools
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.auditing.looks import content_box, look_at
from data_pipelines.auditing.measures import Measures, measure
from data_pipelines.files import replacing
from data_pipelines.prepared.data import PreparedSet

LOOKS_FILE = 'looks.npz'
VERSION = 2  # raise it when looks or measures of the same pixels change
BLOCK = 256


@dataclass(frozen=True)
class Looks:
    """Of all images of a set in stored order."""

    looks: np.ndarray  # uint8 [N, SIDE, SIDE]
    measures: np.ndarray  # float32 [N, len(Measures._fields)]

    def of(self, row: int) -> Measures:
        return Measures(*self.measures[row].tolist())


def look_closely(image: np.ndarray, original_size: tuple[int, int]) -> tuple[np.ndarray, Measures]:
    """The look and the measures of an image [R, R], or in colour [R, R, C].

    `original_size`: the (H, W) that it had before padding.
    """
    if image.ndim == 3:
        image = image.mean(-1).round().astype(image.dtype)
    box = content_box(image)
    look = look_at(image, box)
    return look, measure(image, box, look, original_size)


def stacked(seen: Iterable[tuple[np.ndarray, Measures]]) -> Looks:
    """What look_closely gives of all images of a set, in their order."""
    looks, measures = zip(*seen, strict=True)
    return Looks(np.array(looks, np.uint8), np.array(measures, np.float32))


def save_looks(folder: Path, looks: Looks, fingerprint: str) -> None:
    """Writes LOOKS_FILE of the prepared set in `folder`."""
    with replacing(folder / LOOKS_FILE) as new, new.open('wb') as file:
        np.savez(file, looks=looks.looks, measures=looks.measures, of=_of(fingerprint))


def stored_looks(prepared: PreparedSet) -> Looks | None:
    """What lies beside the set; None without, or of other pixels."""
    try:
        with np.load(prepared.directory / LOOKS_FILE, allow_pickle=False) as stored:
            if str(stored['of']) == _of(prepared.card['fingerprint']):
                return Looks(stored['looks'], stored['measures'])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        pass
    return None


def looks_of(prepared: PreparedSet) -> Looks:
    """Those stored, or else of the set's records, which are then stored where that is allowed."""
    found = stored_looks(prepared)
    if found is None:
        found = stacked(itertools.starmap(look_closely, _images(prepared)))
        if os.access(prepared.directory, os.W_OK):
            save_looks(prepared.directory, found, prepared.card['fingerprint'])
    return found


def _images(prepared: PreparedSet) -> Iterable[tuple[np.ndarray, tuple[int, int]]]:
    fields = ('image', 'original_size')
    for start in range(0, len(prepared.index), BLOCK):
        rows = range(start, min(start + BLOCK, len(prepared.index)))
        for record in prepared.read(rows, fields):
            yield record['image'], tuple(record['original_size'].tolist())


def _of(fingerprint: str) -> str:
    return f'{VERSION} {fingerprint}'
