"""One radiograph file -> grey values in [0, 1], bright = dense, and the header a record keeps."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from data_pipelines.raw.dicom_luts import LUT_KEYWORDS, depth_in_use, grey_table
from data_pipelines.raw.dicom_pixels import (
    LAYOUT_KEYWORDS,
    UnreadableRadiograph,
    first,
    pixel_layout,
    read_header,
    read_words,
    transfer_syntax,
    values,
)

_TEXT_KEYWORDS = {
    'patient_id': 'PatientID',
    'study_uid': 'StudyInstanceUID',
    'image_uid': 'SOPInstanceUID',
    'source': 'InstitutionName',
}
_SPACING_KEYWORDS = ('PixelSpacing', 'ImagerPixelSpacing')
# Nothing else is parsed: private groups can be large.
TAGS = [
    tag_for_keyword(keyword)
    for keyword in (
        *LAYOUT_KEYWORDS,
        *LUT_KEYWORDS,
        *_TEXT_KEYWORDS.values(),
        *_SPACING_KEYWORDS,
        'PatientSex',
        'PatientAge',
        'ViewPosition',
    )
]
_YEARS = {'Y': 1.0, 'M': 1 / 12, 'W': 7 / 365.25, 'D': 1 / 365.25}


@dataclass(frozen=True)
class Radiograph:
    """pixels: float32 [H, W] in [0, 1], bright = dense; of an image in colour [H, W, 3].

    header: patient_id, study_uid, image_uid (raw identities: hash them, never print them), source,
    sex 'F'/'M'/'', view 'PA'/'AP'/'', age (years, nan unknown), spacing (mm per pixel, row and
    column, nan unknown), bits (stored), transfer_syntax, photometric, warnings (tuple of text).
    """

    pixels: np.ndarray
    header: dict


def read_radiograph(path: str | Path) -> Radiograph:
    """Reads a DICOM file; dicom_luts.grey_table says what 0 and 1 mean.

    Contradictions in the header are warned about. Raises UnreadableRadiograph(reason) for a file
    that is no single grey image or cannot be decoded.
    """
    try:
        with open(path, 'rb') as file:
            ds = read_header(file, TAGS)
            layout = pixel_layout(ds)
            words = read_words(file, ds, layout)
        table, notes = grey_table(ds, layout, words)
        header = header_of(ds, layout.bits_stored, transfer_syntax(ds).name, notes)
    except UnreadableRadiograph:
        raise
    except OSError as error:
        raise UnreadableRadiograph(f'cannot be read: {error.strerror or "damaged"}') from None
    except Exception as error:  # any damage can surface in the parser, as any kind of error
        raise UnreadableRadiograph(f'the file is damaged ({type(error).__name__})') from None
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Radiograph(_look_up(table, words), header)


def _look_up(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    pixels = np.empty(words.shape, np.float32)
    # np.take casts its indices to 8 bytes; in bands those stay in the cache (twice as fast).
    for row in range(0, len(words), 32):
        band = slice(row, row + 32)
        np.take(table, words[band], out=pixels[band], mode='clip')
    return pixels


def read_image_file(path: str | Path, channels: int = 1) -> Radiograph:
    """Reads a PNG or JPEG file, scaled by its depth as dicom_luts.grey_table scales a DICOM file
    without window; colour becomes luma (ITU-R 601) or, with 3 channels, keeps its stored sRGB
    values (grey is repeated); transparency becomes black. Pixels stay in stored order, as masks
    and boxes refer to it. Raises UnreadableRadiograph(reason).
    """
    try:
        with Image.open(path, formats=('PNG', 'JPEG')) as image:
            image.load()
            pixels, kind, mode = _pixels(image, channels), image.format, image.mode
    except UnidentifiedImageError:
        raise UnreadableRadiograph('not a PNG or JPEG file') from None
    except OSError as error:
        raise UnreadableRadiograph(f'cannot be read: {error.strerror or error}') from None
    except Exception as error:  # damage surfaces as any kind of error, as do oversized images
        raise UnreadableRadiograph(f'the file is damaged ({type(error).__name__})') from None
    bits = 8 * pixels.itemsize
    full_scale = (1 << depth_in_use(int(pixels.max()), bits)) - 1
    header = header_of(Dataset(), bits, kind, ()) | {'photometric': mode}
    return Radiograph(pixels.astype(np.float32) / np.float32(full_scale), header)


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 or uint16 [H, W], or [H, W, 3]."""
    if image.mode.startswith('I'):
        grey = np.asarray(image).astype(np.uint16)
        return grey if channels == 1 else in_colour(grey)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'black'), image)
    return np.asarray(image.convert('L' if channels == 1 else 'RGB'))


def in_colour(grey: np.ndarray) -> np.ndarray:
    """[H, W] -> [H, W, 3]."""
    return np.repeat(grey[..., None], 3, axis=-1)


def header_of(ds: Dataset, bits: int, syntax: str, notes: tuple[str, ...]) -> dict:
    def text(keyword: str) -> str:
        return str(first(ds, keyword) or '').strip()

    sex, view = text('PatientSex').upper(), text('ViewPosition').upper()
    return {name: text(keyword) for name, keyword in _TEXT_KEYWORDS.items()} | {
        'sex': sex if sex in ('F', 'M') else '',
        'view': view if view in ('PA', 'AP') else '',
        'age': _age(text('PatientAge')),
        'spacing': _spacing(ds),
        'bits': bits,
        'transfer_syntax': syntax,
        'photometric': text('PhotometricInterpretation'),
        'warnings': notes,
    }


def _age(text: str) -> float:
    """Years of a DICOM age string such as 045Y or 018M; nan if it is none, or 0 as a stand-in."""
    match = re.fullmatch(r'(\d{1,3})([YMWD]?)', text)
    years = int(match[1]) * _YEARS[match[2] or 'Y'] if match else 0
    return years or float('nan')


def _spacing(ds: Dataset) -> tuple[float, float]:
    """mm per pixel (row, column) in the patient, else on the detector; nan if neither is given."""
    for keyword in _SPACING_KEYWORDS:
        try:
            row, column = (float(value) for value in values(ds, keyword))
        except (TypeError, ValueError):
            continue
        if 0 < row < np.inf and 0 < column < np.inf:
            return row, column
    return float('nan'), float('nan')
