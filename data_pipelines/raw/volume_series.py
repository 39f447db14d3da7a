"""A volume from a folder of DICOM files, one slice each (PS3.3, section C.7.6.2)."""

from pathlib import Path

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from data_pipelines.raw.dicom import TAGS, header_of
from data_pipelines.raw.dicom_pixels import (
    UnreadableRadiograph,
    first,
    number,
    pixel_layout,
    read_header,
    read_words,
    transfer_syntax,
    values,
)
from data_pipelines.raw.volume import Volume

_TAGS = TAGS + [
    tag_for_keyword(keyword)
    for keyword in (
        'Modality',
        'SeriesInstanceUID',
        'ImagePositionPatient',
        'ImageOrientationPatient',
        'RescaleSlope',
        'RescaleIntercept',
    )
]
# Slices closer than this, in mm, are at one position: echoes or time points.
CLOSEST = 0.01


def is_dicom(path: Path) -> bool:
    """By its content; what a file of an archive is called says little."""
    try:
        with path.open('rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return False


def series_files(folder: Path) -> list[Path]:
    """The DICOM files that lie directly in the folder, by name."""
    files = (path for path in folder.iterdir() if not path.name.startswith('.'))
    return sorted(path for path in files if path.is_file() and is_dicom(path))


def open_series(folder: Path) -> Volume:
    """The DICOM files of a folder as a volume, of which slices are read one at a time.

    Only the first file is read here, therefore neither origin nor the distance of slices is known.
    UnreadableRadiograph, on loading too, for what is no series of slices.
    """
    files = series_files(folder)
    ds = _read_header(files[0])
    layout = pixel_layout(ds)
    header = header_of(ds, layout.bits_stored, transfer_syntax(ds).name, ())
    return Volume(
        shape=(len(files), layout.rows, layout.columns),
        spacing=(float('nan'), *header['spacing']),
        origin=(float('nan'),) * 3,
        files=tuple(files),
        header=header,
        load=lambda: _Slices(files),
        modality=str(first(ds, 'Modality') or '').strip().upper(),
    )


class _Slices:
    """The slices of a series, from the lowest position along their normal to the highest."""

    def __init__(self, files: list[Path]):
        headers = [_read_header(file) for file in files]
        if len({_place(ds) for ds in headers}) > 1:
            raise UnreadableRadiograph(
                'the folder holds DICOM images of several series, sizes or orientations'
            )
        self._files = files
        if len(files) == 1:
            return
        positions = [_position(ds) for ds in headers]
        order = np.argsort(positions)
        if np.diff(np.array(positions)[order]).min() < CLOSEST:
            raise UnreadableRadiograph(
                'several DICOM images of the folder are at one position (echoes or time points)'
            )
        self._files = [files[k] for k in order]

    def __getitem__(self, number: int) -> np.ndarray:
        return _read_slice(self._files[number])


def _read_header(path: Path) -> Dataset:
    with path.open('rb') as file:
        return read_header(file, _TAGS)


def _place(ds: Dataset) -> tuple:
    """What all slices of a series have in common."""
    orientation = tuple(round(float(value), 3) for value in values(ds, 'ImageOrientationPatient'))
    size = number(ds, 'Rows'), number(ds, 'Columns')
    return str(first(ds, 'SeriesInstanceUID')), size, orientation


def _position(ds: Dataset) -> float:
    """Of a slice along the normal of its plane, in mm."""
    at = [float(value) for value in values(ds, 'ImagePositionPatient')]
    axes = [float(value) for value in values(ds, 'ImageOrientationPatient')]
    if len(at) != 3 or len(axes) != 6:
        raise UnreadableRadiograph(
            'a DICOM image lacks its position or orientation: the order of slices is unknown'
        )
    return float(np.dot(np.cross(axes[:3], axes[3:]), at))


def _read_slice(path: Path) -> np.ndarray:
    """float32 [rows, columns]: the stored values after slope and intercept, HU in a CT."""
    with path.open('rb') as file:
        ds = read_header(file, _TAGS)
        layout = pixel_layout(ds)
        words = read_words(file, ds, layout)
    slope, intercept = number(ds, 'RescaleSlope') or 1.0, number(ds, 'RescaleIntercept') or 0.0
    return (layout.value_of_word() * slope + intercept).astype(np.float32)[words]
