"""Stored word -> grey: modality LUT, VOI LUT or window, polarity and padding as one table.

DICOM PS3.3 sections C.11.1 (modality), C.11.2 (VOI), C.7.6.3.1.2 (photometric interpretation),
C.7.5.1.1.2 (pixel padding) and C.11.6 (presentation LUT shape).
"""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from data_pipelines.raw.dicom_pixels import PixelLayout, UnreadableRadiograph, first, number

LUT_KEYWORDS = (
    'PixelPaddingValue',
    'PixelPaddingRangeLimit',
    'ModalityLUTSequence',
    'RescaleSlope',
    'RescaleIntercept',
    'VOILUTSequence',
    'VOILUTFunction',
    'WindowCenter',
    'WindowWidth',
    'PresentationLUTShape',
)
# The depths detectors digitise to.
_DEPTHS = (8, 10, 12, 14, 16)


def grey_table(
    ds: Dataset, layout: PixelLayout, words: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [2^bits_allocated] in [0, 1], bright = dense, to be indexed by the stored word; and
    the header's contradictions, as sentences.

    With a VOI LUT or window, 1 is the largest value that the LUT or window can give. Without, 0
    to 1 is the range of the stored bits after the modality transform, so that one value has one
    grey in all images of a detector; each image's own minimum and maximum would let a marker or a
    pacemaker set the contrast of the lungs. But declared bits that are never used would make a
    picture nearly black (files that declare 16 and hold 12 are common), therefore the range is
    the smallest depth of 8, 10, 12, 14 or 16 bits that holds the data, and a signed image without
    negative values counts as unsigned. LUT entries are scaled by the same rule.
    Padding becomes 0 last of all and counts for no range. An unreadable VOI transform is left out
    with a sentence; raises UnreadableRadiograph for an unreadable modality LUT.
    """
    notes: list[str] = []
    value = layout.value_of_word()
    padding = _padding(ds, layout, value)
    try:
        modality_lut = _read_lut(ds, 'ModalityLUTSequence', layout.signed)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise UnreadableRadiograph('the modality LUT cannot be read') from None
    slope, intercept = number(ds, 'RescaleSlope') or 1.0, number(ds, 'RescaleIntercept') or 0.0
    grey = modality_lut.look_up(value) if modality_lut else value * slope + intercept
    table = _voi(ds, grey, notes)
    if table is None:
        if modality_lut:
            low, high = 0, modality_lut.top
        else:
            ends = _range_in_use(layout, words, value, padding)
            low, high = sorted(end * slope + intercept for end in ends)
        table = np.clip((grey - low) / (high - low), 0, 1)
    if _is_inverted(ds, notes):
        table = 1 - table
    table[padding] = 0
    return table.astype(np.float32), tuple(notes)


@dataclass(frozen=True)
class _Lut:
    entries: np.ndarray  # float64 [n]
    first: int  # the input that the first entry is for
    top: int  # the largest output of the entries' depth

    def look_up(self, values: np.ndarray) -> np.ndarray:
        index = np.rint(values - self.first).astype(np.int64)
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def _read_lut(ds: Dataset, keyword: str, signed: bool) -> _Lut | None:
    """The first item of a LUT sequence, None if there is none; several kinds of error if broken.

    `signed`: inputs may be negative; writers mix up the VR of the descriptor.
    """
    item = first(ds, keyword)
    if item is None:
        return None
    count, start, bits = (int(v) & 0xFFFF for v in _uint16(item.LUTDescriptor, ds))
    count = count or 1 << 16
    entries = _uint16(item.LUTData, ds)
    if len(entries) < count:  # 8-bit entries, two to a word
        entries = entries.view(np.uint8)
    if len(entries) < count:
        raise ValueError('fewer entries than the descriptor says')
    entries = entries[:count]
    start -= (1 << 16) * (signed and start >= 1 << 15)
    depth = depth_in_use(int(entries.max()), bits if 1 <= bits <= 16 else 16)
    return _Lut(entries.astype(np.float64), start, (1 << depth) - 1)


def _uint16(value: bytes | list[int], ds: Dataset) -> np.ndarray:
    if isinstance(value, bytes):
        little = ds.original_encoding[1]
        return np.frombuffer(value[: len(value) // 2 * 2], '<u2' if little else '>u2').astype('<u2')
    return (np.atleast_1d(np.asarray(value, np.int64)) & 0xFFFF).astype('<u2')


def depth_in_use(largest: int, declared: int) -> int:
    """Bits that hold `largest`: no more than declared, unless the data exceed those."""
    fitting = next(depth for depth in _DEPTHS if largest < 1 << depth)
    return min(fitting, declared) if largest < 1 << declared else fitting


def _range_in_use(
    layout: PixelLayout, words: np.ndarray, value: np.ndarray, padding: np.ndarray
) -> tuple[int, int]:
    """Lowest and highest stored value of the depth that holds the data (padding left out)."""
    typed = words.view(np.dtype(f'i{words.itemsize}')) if layout.signed else words
    low, high = int(typed.min()), int(typed.max())
    # Extremes inside the stored range and not padding are the data's own; this spares a pass.
    clean = layout.high_bit == layout.bits_stored - 1 and value.min() <= low <= high <= value.max()
    if not clean or padding[high] or (layout.signed and padding[low]):
        present = np.zeros(len(value), bool)
        present[words] = True
        used = value[present & ~padding]
        low, high = (int(used.min()), int(used.max())) if used.size else (0, int(value.max()))
    if low < 0:
        half = 1 << depth_in_use(2 * max(high, -low - 1) + 1, layout.bits_stored) - 1
        return -half, half - 1
    return 0, (1 << depth_in_use(high, layout.bits_stored - layout.signed)) - 1


def _padding(ds: Dataset, layout: PixelLayout, value: np.ndarray) -> np.ndarray:
    """bool [2^bits_allocated]: the words that mean 'no image here'."""
    start = number(ds, 'PixelPaddingValue')
    if start is None:
        return np.zeros(len(value), bool)
    limit = number(ds, 'PixelPaddingRangeLimit')
    # The two elements may have been written with the wrong sign; as words they are the same.
    full = PixelLayout(
        1, 1, layout.bits_allocated, layout.bits_allocated, layout.bits_allocated - 1, layout.signed
    ).value_of_word()
    low, high = sorted(full[int(v) % len(full)] for v in (start, start if limit is None else limit))
    # A padding value outside the stored bits (0xFFFF with 12 bits) is meant for the whole word.
    meant = value if value.min() <= low and high <= value.max() else full
    return (meant >= low) & (meant <= high)


def _voi(ds: Dataset, grey: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """VOI LUT, else window (the first of several), of `grey` to [0, 1]; None if there is none."""
    try:
        lut = _read_lut(ds, 'VOILUTSequence', bool(grey.min() < 0))
    except (AttributeError, IndexError, TypeError, ValueError):
        lut = None
        notes.append('the VOI LUT cannot be read and is left out')
    if lut:
        return lut.look_up(grey) / lut.top
    center, width = number(ds, 'WindowCenter'), number(ds, 'WindowWidth')
    if center is None and width is None:
        return None
    function = str(first(ds, 'VOILUTFunction') or 'LINEAR').strip().upper()
    if function not in ('LINEAR', 'LINEAR_EXACT', 'SIGMOID'):
        notes.append(f'unknown VOI LUT function {function[:16]}, taken as LINEAR')
        function = 'LINEAR'
    if center is None or width is None or width < 1 and (function == 'LINEAR' or width <= 0):
        notes.append(f'window center {center}, width {width} is not a window and is left out')
        return None
    if function == 'SIGMOID':
        # 1 / (1 + exp(-4 (x - c) / w)) without its overflow
        return 0.5 + 0.5 * np.tanh(2 * (grey - center) / width)
    if function == 'LINEAR':
        center, width = center - 0.5, width - 1
    if width == 0:
        return (grey > center).astype(np.float64)
    return np.clip((grey - center) / width + 0.5, 0, 1)


def _is_inverted(ds: Dataset, notes: list[str]) -> bool:
    """Whether low values are dense. The presentation LUT shape repeats the photometric
    interpretation (PS3.3 C.8.11.3.1.2), it does not invert a second time."""
    photometric = first(ds, 'PhotometricInterpretation')
    shape = str(first(ds, 'PresentationLUTShape') or '').strip().upper()
    agreeing = {'MONOCHROME1': ('', 'INVERSE'), 'MONOCHROME2': ('', 'IDENTITY')}
    if shape not in agreeing[photometric]:
        notes.append(f'PresentationLUTShape {shape[:16]} contradicts {photometric}, which is used')
    return photometric == 'MONOCHROME1'
