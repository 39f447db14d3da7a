"""What kind of image a file is, by its first bytes: names and suffixes say little."""

import os
import struct
from pathlib import Path

from data_pipelines.raw.dicom_pixels import UnreadableRadiograph

DICOM, PNG, JPEG = 'DICOM', 'PNG', 'JPEG'
DICOMDIR = 'DICOMDIR'  # the table of contents of a medium: DICOM, but no image
HEAD = 1024  # bytes that tell

_DICOMDIR_UID = b'1.2.840.10008.1.3.10'
_SHORT = {b'AE', b'AS', b'CS', b'DA', b'DT', b'IS', b'LO', b'PN', b'SH', b'TM', b'UI', b'UL', b'US'}
_LONG = {b'OB', b'SQ', b'UN'}  # two reserved bytes and a length of four


def read_head(path: str | Path) -> bytes:
    """The first bytes of a file; OSError. A named pipe is empty instead of waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, HEAD)
    finally:
        os.close(descriptor)


def kind_of(head: bytes) -> str:
    """One of the kinds above, '' for any other file, by its first HEAD bytes."""
    if head.startswith(b'\x89PNG\r\n\x1a\n'):
        return PNG
    if head.startswith(b'\xff\xd8\xff'):
        return JPEG
    if head[128:132] == b'DICM':
        return DICOMDIR if _DICOMDIR_UID in head else DICOM
    return DICOM if any(_opens_a_data_set(head, order) for order in '<>') else ''


def image_kind(path: Path) -> str:
    """DICOM, PNG or JPEG; UnreadableRadiograph(reason) for a file that is none of them."""
    try:
        kind = kind_of(read_head(path))
    except OSError as error:
        raise UnreadableRadiograph(f'cannot be read: {error.strerror}') from None
    if kind not in (DICOM, PNG, JPEG):
        raise UnreadableRadiograph('not a DICOM, PNG or JPEG file')
    return kind


def _opens_a_data_set(head: bytes, order: str) -> bool:
    """Whether a DICOM file without preamble begins so: an element of group 2 or 8, and behind it
    one that may follow. One alone could be chance."""
    first = _element(head, 0, order)
    second = first and _element(head, first[1], order)
    return bool(second) and first[0] >> 16 in (2, 8) and first[0] < second[0] < 0x00200000


def _element(head: bytes, at: int, order: str) -> tuple[int, int] | None:
    """(group and element, where the next begins) of the element at a place of the head."""
    if len(head) < at + 12:
        return None
    group, element = struct.unpack_from(f'{order}HH', head, at)
    kind = head[at + 4 : at + 6]
    if kind in _SHORT:
        start, (length,) = at + 8, struct.unpack_from(f'{order}H', head, at + 6)
    elif kind in _LONG:
        start, (length,) = at + 12, struct.unpack_from(f'{order}I', head, at + 8)
    else:  # an implicit one, of which there are no big-endian files
        start, (length,) = at + 8, struct.unpack_from('<I', head, at + 4)
    return group << 16 | element, start + length
