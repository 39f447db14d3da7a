"""The stored words of one DICOM image: which bits count, and the bytes or codec they come from."""

import logging
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom import config, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder, pixel_array
from pydicom.sequence import Sequence

# pydicom's complaints quote header values, which may identify a person; what matters here
# becomes a reason or a warning of our own.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger('pydicom').setLevel(logging.CRITICAL)

# pydicom's plugins that decode a syntax alike, the fastest first (`scripts/bench.py ingest`, one
# core, 2500 x 2048); the first that is installed is taken. Where none is, pydicom chooses.
_PLUGINS = {
    uid.RLELossless: ('pylibjpeg', 'pydicom'),  # 19 and 110 ms
    uid.JPEGBaseline8Bit: ('pillow', 'gdcm'),  # 20 and 67 ms
    uid.JPEGLSLossless: ('pyjpegls', 'gdcm'),  # 128 and 225 ms
    uid.JPEGLSNearLossless: ('pyjpegls', 'gdcm'),
    uid.JPEG2000: ('pylibjpeg', 'pillow', 'gdcm'),  # 849, 919 and 949 ms
    uid.JPEG2000Lossless: ('pylibjpeg', 'pillow', 'gdcm'),
}
_UNCOMPRESSED = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
# SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 of JPEG-LS, which needs no Huffman table
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_UNDEFINED_LENGTH = 0xFFFFFFFF


LAYOUT_KEYWORDS = (
    'SamplesPerPixel',
    'PlanarConfiguration',
    'PhotometricInterpretation',
    'NumberOfFrames',
    'Rows',
    'Columns',
    'BitsAllocated',
    'BitsStored',
    'HighBit',
    'PixelRepresentation',
)


class UnreadableRadiograph(ValueError):
    """A file that is no usable radiograph; the message is the reason, one line, no header values
    that could identify a person."""


@dataclass(frozen=True)
class PixelLayout:
    """How a stored value lies in its word of 8 or 16 bits (PS3.5, section 8.1.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    def value_of_word(self) -> np.ndarray:
        """int32 [2^bits_allocated]: the stored value each possible word stands for."""
        word = np.arange(1 << self.bits_allocated, dtype=np.int32)
        value = (word >> (self.high_bit + 1 - self.bits_stored)) & ((1 << self.bits_stored) - 1)
        if self.signed:
            value -= (value >> (self.bits_stored - 1)) << self.bits_stored
        return value


def values(ds: Dataset, keyword: str) -> list:
    """The element's values; none if it is absent, empty or garbled."""
    try:
        value = ds.get(keyword)
    except Exception:  # pydicom raises many kinds when it converts a malformed value
        return []
    if isinstance(value, (MultiValue, Sequence, list, tuple)):
        return list(value)
    return [] if value in (None, '', b'') else [value]


def first(ds: Dataset, keyword: str):
    """The element's first value, or None."""
    return next(iter(values(ds, keyword)), None)


def number(ds: Dataset, keyword: str) -> float | None:
    """The first value of an element as a finite number, or None."""
    try:
        value = float(first(ds, keyword))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def read_header(file: BinaryIO, tags: list[int]) -> Dataset:
    """The named elements up to the pixel data; `file` is left at the pixel data element.

    Raises UnreadableRadiograph if the file is not DICOM.
    """
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
    except InvalidDicomError:
        file.seek(0)
        # Old writers leave out the preamble; then the file opens with an element of group 2 or 8.
        if file.read(2) not in (b'\x02\x00', b'\x08\x00', b'\x00\x08'):
            raise UnreadableRadiograph('not a DICOM file') from None
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)


def pixel_layout(ds: Dataset) -> PixelLayout:
    """Checks that the image is one grey frame of 8 or 16 bits; UnreadableRadiograph if not."""
    rows, columns = (int(number(ds, keyword) or 0) for keyword in ('Rows', 'Columns'))
    if rows < 1 or columns < 1:
        raise UnreadableRadiograph('not an image, or cut off: the header gives no Rows and Columns')
    photometric = str(first(ds, 'PhotometricInterpretation') or 'missing')
    samples = int(number(ds, 'SamplesPerPixel') or 1)
    if samples != 1 or photometric not in ('MONOCHROME1', 'MONOCHROME2'):
        raise UnreadableRadiograph(
            f'not a grey image: {samples} samples per pixel, photometric interpretation '
            f'{photometric[:16]}'
        )
    frames = int(number(ds, 'NumberOfFrames') or 1)
    if frames != 1:
        raise UnreadableRadiograph(f'{frames} frames, not a single image')
    allocated = int(number(ds, 'BitsAllocated') or 0)
    stored = int(number(ds, 'BitsStored') or allocated)
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise UnreadableRadiograph(f'{stored} bits stored in {allocated} are not supported')
    high = int(number(ds, 'HighBit') or stored - 1)
    # Only uncompressed words and RLE keep the value's place in the word; a codec right-aligns it.
    encapsulated = transfer_syntax(ds).is_encapsulated
    if not stored <= high + 1 <= allocated or (
        encapsulated and transfer_syntax(ds) != uid.RLELossless
    ):
        high = stored - 1
    signed = number(ds, 'PixelRepresentation') == 1
    return PixelLayout(rows, columns, allocated, stored, high, signed)


def transfer_syntax(ds: Dataset) -> uid.UID:
    """The file's transfer syntax; for a file without it, the uncompressed one it was read as."""
    syntax = ds.file_meta.get('TransferSyntaxUID')
    if not syntax:
        implicit, little = ds.original_encoding
        syntax = _UNCOMPRESSED[0 if implicit else 1 if little else 2]
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise UnreadableRadiograph(f'unknown transfer syntax {str(syntax)[:64]}')
    return syntax


def read_words(file: BinaryIO, ds: Dataset, layout: PixelLayout) -> np.ndarray:
    """uint8 or uint16 [rows, columns]: the words of the pixel data as stored, no bit cleaned.

    `file` stands at the pixel data element, as read_header leaves it. Raises UnreadableRadiograph
    if the data are missing, cut off, or of a syntax nothing here decodes.
    """
    syntax = transfer_syntax(ds)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        file.seek(0)
        data = pydicom.dcmread(file).get('PixelData') or b''
        words = np.frombuffer(data[: len(data) // 2 * 2], f'<u{layout.bits_allocated // 8}')
        return _shaped(words, layout)
    vr, length = _pixel_element(file, little=syntax != uid.ExplicitVRBigEndian)
    if syntax.is_encapsulated:
        if length != _UNDEFINED_LENGTH:
            raise UnreadableRadiograph(f'pixel data are not encapsulated as {syntax.name} requires')
        return _decode(_items(file), ds, syntax, layout)
    if length == _UNDEFINED_LENGTH:
        raise UnreadableRadiograph('pixel data are compressed but no transfer syntax says how')
    count = min(layout.rows * layout.columns, length // (layout.bits_allocated // 8))
    if syntax != uid.ExplicitVRBigEndian:
        return _shaped(np.fromfile(file, f'<u{layout.bits_allocated // 8}', count), layout)
    if layout.bits_allocated == 8 and vr == b'OW':  # bytes are swapped in pairs
        pairs = np.fromfile(file, '>u2', (count + 1) // 2).astype('<u2')
        return _shaped(pairs.view(np.uint8), layout)
    words = np.fromfile(file, f'>u{layout.bits_allocated // 8}', count)
    return _shaped(words.astype(words.dtype.newbyteorder('=')), layout)


def _shaped(words: np.ndarray, layout: PixelLayout) -> np.ndarray:
    expected = layout.rows * layout.columns
    if words.size < expected:
        raise UnreadableRadiograph(
            f'pixel data are cut off: {words.size} of {expected} pixels are there'
        )
    return words[:expected].reshape(layout.rows, layout.columns)


def _pixel_element(file: BinaryIO, little: bool) -> tuple[bytes, int]:
    """VR (empty if implicit) and length of the pixel data element; `file` moves to its value."""
    order = '<' if little else '>'
    start = file.read(8)
    tag = struct.unpack(order + 'HH', start[:4]) if len(start) == 8 else None
    if tag in ((0x7FE0, 0x0008), (0x7FE0, 0x0009)):
        raise UnreadableRadiograph('floating-point pixel data are not supported')
    if tag != (0x7FE0, 0x0010):
        raise UnreadableRadiograph('no pixel data: not an image, or the file is cut off')
    vr = start[4:6]
    # In implicit VR these bytes are the low half of the length, which is even; 'O' and 'U' are odd.
    if vr not in (b'OW', b'OB', b'UN'):
        return b'', struct.unpack(order + 'L', start[4:])[0]
    length = file.read(4)
    return vr, struct.unpack(order + 'L', length)[0] if len(length) == 4 else 0


def _items(file: BinaryIO) -> list[bytes]:
    """The fragments of encapsulated pixel data (PS3.5, annex A.4), without the offset table."""
    items = []
    while True:
        start = file.read(8)
        tag, length = struct.unpack('<LL', start) if len(start) == 8 else (0, 0)
        if tag == 0xE0DDFFFE:
            return items[1:]
        item = file.read(length) if tag == 0xE000FFFE else b''
        if tag != 0xE000FFFE or len(item) < length:
            raise UnreadableRadiograph('compressed pixel data are cut off')
        items.append(item)


def _decode(
    fragments: list[bytes], ds: Dataset, syntax: uid.UID, layout: PixelLayout
) -> np.ndarray:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableRadiograph(f'transfer syntax {syntax.name} is not supported') from None
    if not decoder.is_available:
        needs = '; '.join(decoder.missing_dependencies)
        raise UnreadableRadiograph(f'no decoder for {syntax.name} is installed ({needs})')
    stream = b''.join(fragments)
    if syntax in uid.JPEGTransferSyntaxes + uid.JPEGLSTransferSyntaxes:
        _check_jpeg(stream, layout)
    ds.PixelData = encapsulate([stream])
    ds['PixelData'].is_undefined_length = True
    plugin = next((p for p in _PLUGINS.get(syntax, ()) if p in decoder.available_plugins), '')
    try:
        pixels = pixel_array(ds, decoding_plugin=plugin, correct_unused_bits=False)
    except BaseException as error:  # each plugin raises its own kinds, Rust's panics among them
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        said = ' '.join(str(error).split('available plugins:')[-1].split())[:200]
        if 'does not support' in said:
            said += f' (not installed: {"; ".join(decoder.missing_dependencies)})'
        raise UnreadableRadiograph(f'{syntax.name} data cannot be decoded: {said}') from None
    return _shaped(pixels.view(f'u{pixels.itemsize}').reshape(-1), layout)


def _check_jpeg(stream: bytes, layout: PixelLayout) -> None:
    """Walks the segments up to the scan (ITU-T T.81, annex B). gdcm aborts the whole process on a
    damaged frame header or a missing table, where other damage only makes it fail."""
    position, seen = 2, set()
    while 0xDA not in seen:
        start = stream[position : position + 4]
        if len(start) < 4 or start[0] != 0xFF:
            raise UnreadableRadiograph('the JPEG stream is damaged')
        marker, length = start[1], int.from_bytes(start[2:], 'big')
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        seen.add(marker)
        if marker in _FRAME_MARKERS:
            found = struct.unpack('>BHHB', stream[position + 4 : position + 10].ljust(6, b'\0'))
            if found[1:] != (layout.rows, layout.columns, 1) or found[0] > layout.bits_allocated:
                raise UnreadableRadiograph(
                    'the JPEG stream is damaged: size or depth is not that of the DICOM header'
                )
        position += 2 + length
    if not seen & _FRAME_MARKERS or not seen & {0xC4, 0xF7}:
        raise UnreadableRadiograph('the JPEG stream is damaged: frame or Huffman table is missing')
