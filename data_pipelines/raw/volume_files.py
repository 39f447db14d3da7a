"""Volumes from files: MetaImage (.mhd with .raw or .zraw), NIfTI, a folder of DICOM files."""

import contextlib
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from data_pipelines.errors import UserError
from data_pipelines.raw.dicom import Radiograph, header_of
from data_pipelines.raw.dicom_pixels import UnreadableRadiograph
from data_pipelines.raw.volume import Piece, Volume, cut
from data_pipelines.raw.volume_series import open_series

SUFFIXES = ('.mhd', '.nii', '.nii.gz')

_TYPES = {
    'MET_CHAR': 'i1', 'MET_UCHAR': 'u1', 'MET_SHORT': 'i2', 'MET_USHORT': 'u2',
    'MET_INT': 'i4', 'MET_UINT': 'u4', 'MET_FLOAT': 'f4', 'MET_DOUBLE': 'f8',
}  # fmt: skip
# Names of the same field in files of other writers.
_ALSO_CALLED = {
    'Position': 'Offset',
    'Origin': 'Offset',
    'Rotation': 'TransformMatrix',
    'Orientation': 'TransformMatrix',
    'BinaryDataByteOrderMSB': 'ElementByteOrderMSB',
}
_MOST_HEADER = 1 << 16  # bytes of a text that ends with the name of the data file


def open_volume(path: Path) -> Volume:
    """The volume of a file, or of a folder of DICOM files; its voxels are read when asked for.

    UnreadableRadiograph(reason) for what is damaged or no volume, also while voxels are read.
    """
    with damage_told():
        if path.is_dir():
            return open_series(path)
        return _open_metaimage(path) if path.suffix == '.mhd' else _open_nifti(path)


def read_piece(path: Path, piece: Piece) -> Radiograph:
    """A piece of the volume at `path`; UnreadableRadiograph. Fast for pieces of one volume that
    follow one another."""
    with damage_told():
        volume = _opened(path, piece.state)
        spacing = [mm for axis, mm in enumerate(volume.spacing) if axis != piece.axis]
        return Radiograph(cut(volume, piece), volume.header | {'spacing': tuple(spacing)})


@lru_cache(maxsize=1)
def _opened(path: Path, state: str) -> Volume:
    """The last volume, whose voxels go before those of the next are read."""
    return open_volume(path)


@contextlib.contextmanager
def damage_told() -> Iterator[None]:
    """Any damage as UnreadableRadiograph."""
    try:
        yield
    except (UnreadableRadiograph, UserError):
        raise
    except OSError as error:
        raise UnreadableRadiograph(f'cannot be read: {error.strerror or "damaged"}') from None
    except Exception as error:  # damage can surface in a parser as any kind of error
        raise UnreadableRadiograph(f'the file is damaged ({type(error).__name__})') from None


def _mm(lengths: np.ndarray) -> tuple[float, float, float]:
    return tuple(float(mm) if 0 < mm < np.inf else float('nan') for mm in lengths)


def _header(dtype: np.dtype, kind: str) -> dict:
    return header_of(Dataset(), 8 * dtype.itemsize, kind, ())


def _metaimage_fields(path: Path) -> dict[str, str]:
    with path.open('rb') as file:
        lines = file.read(_MOST_HEADER).decode('latin-1').splitlines()
    fields = {}
    for line in lines:
        name, _, value = (part.strip() for part in line.partition('='))
        fields[_ALSO_CALLED.get(name, name)] = value
        if name == 'ElementDataFile':  # the last one
            return fields
    raise UnreadableRadiograph('not a MetaImage header: it does not name its ElementDataFile')


def _open_metaimage(path: Path) -> Volume:
    """An axis whose direction is negative is turned round, and the origin with it."""
    fields = _metaimage_fields(path)
    shape = tuple(int(length) for length in fields.get('DimSize', '').split()[::-1])
    kind, channels = fields.get('ElementType', ''), fields.get('ElementNumberOfChannels', '1')
    if len(shape) != 3 or min(shape) < 1 or kind not in _TYPES or channels != '1':
        raise UnreadableRadiograph('the MetaImage header is not that of a volume of numbers')
    big = fields.get('ElementByteOrderMSB', 'False').lower() == 'true'
    dtype = np.dtype(('>' if big else '<') + _TYPES[kind])
    name = fields['ElementDataFile']
    if name.upper() in ('LOCAL', 'LIST') or '%' in name:
        raise UnreadableRadiograph(f'ElementDataFile = {name[:32]} is not supported, only one file')
    data = path.parent / name
    if not data.is_file():
        raise UnreadableRadiograph(f'its data file {data.name} is missing')

    matrix = _numbers(fields, 'TransformMatrix', '1 0 0 0 1 0 0 0 1', 9).reshape(3, 3)
    sign = np.sign(np.diag(matrix)).astype(int)
    if not (sign.all() and np.allclose(matrix, np.diag(sign), atol=1e-3)):
        raise UnreadableRadiograph('the axes of the volume are oblique or exchanged')
    spacing, offset = (_numbers(fields, *of, 3) for of in (
        ('ElementSpacing', '1 1 1'), ('Offset', '0 0 0'),
    ))  # fmt: skip
    origin = offset - np.where(sign < 0, (np.array(shape[::-1]) - 1) * spacing, 0)
    compressed = fields.get('CompressedData', 'False').lower() == 'true'
    read = _inflate if compressed else _map
    before = int(fields.get('HeaderSize', 0))
    start = before if compressed else _start_of_data(data, shape, dtype, before)
    turned = tuple(slice(None, None, step) for step in sign[::-1])
    return Volume(
        shape=shape,
        spacing=_mm(spacing[::-1]),
        origin=tuple(float(mm) for mm in origin[::-1]),
        files=(path, data),
        header=_header(dtype, 'MetaImage'),
        load=lambda: read(data, shape, dtype, start)[turned],
    )


def _numbers(fields: dict[str, str], name: str, default: str, count: int) -> np.ndarray:
    numbers = np.array(fields.get(name, default).split(), np.float64)
    if len(numbers) != count:
        raise UnreadableRadiograph(f'the MetaImage header has no {count} numbers as {name}')
    return numbers


def _start_of_data(data: Path, shape: tuple, dtype: np.dtype, header_size: int) -> int:
    """Bytes before the voxels; a HeaderSize of -1 means that they end the file."""
    needed, there = int(np.prod(shape, dtype=object)) * dtype.itemsize, data.stat().st_size
    start = there - needed if header_size == -1 else header_size
    if start < 0 or there < start + needed:
        raise UnreadableRadiograph(
            f'the data file is cut off: {there} of {max(start, 0) + needed} bytes are there'
        )
    return start


def _map(data: Path, shape: tuple, dtype: np.dtype, start: int) -> np.ndarray:
    return np.memmap(data, dtype, 'r', start, shape)


def _inflate(data: Path, shape: tuple, dtype: np.dtype, start: int) -> np.ndarray:
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    content = zlib.decompressobj().decompress(data.read_bytes(), needed)
    if len(content) < needed:
        raise UnreadableRadiograph(
            f'the data file is cut off: {len(content)} of {needed} bytes are there'
        )
    return np.frombuffer(content, dtype).reshape(shape)


def _open_nifti(path: Path) -> Volume:
    """Axes are exchanged and turned to come nearest to those of a Volume."""
    try:
        import nibabel
    except ImportError:
        raise UserError(
            f'{path} needs nibabel, which is not installed. Install it with: pip install nibabel'
        ) from None
    image = nibabel.load(path)
    stored = tuple(int(length) for length in image.shape)
    dtype = image.get_data_dtype()
    if len(stored) < 3 or any(length != 1 for length in stored[3:]) or dtype.kind not in 'iuf':
        raise UnreadableRadiograph(
            f'not one volume of numbers: {" x ".join(map(str, stored))} of type {dtype}'
        )
    orientations, stored = nibabel.orientations, stored[:3]
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt('LPS')
    )
    if np.isnan(turn).any():
        raise UnreadableRadiograph('the header does not say how the axes lie')
    order = np.argsort(turn[:, 0])  # the stored axis of x, y and z
    # NIfTI's world has x to the right and y to the front.
    origin = (image.affine @ orientations.inv_ornt_aff(turn, stored))[:3, 3] * (-1, -1, 1)

    def load() -> np.ndarray:
        proxy = image.dataobj
        if (proxy.slope, proxy.inter) == (1, 0):
            voxels = proxy.get_unscaled()
        else:
            voxels = image.get_fdata(dtype=np.float32, caching='unchanged')
        return orientations.apply_orientation(voxels.reshape(stored), turn).transpose(2, 1, 0)

    return Volume(
        shape=tuple(stored[axis] for axis in order[::-1]),
        spacing=_mm(np.array(image.header.get_zooms()[:3])[order[::-1]]),
        origin=tuple(float(mm) for mm in origin[::-1]),
        files=(path,),
        header=_header(dtype, 'NIfTI'),
        load=load,
    )
