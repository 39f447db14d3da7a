"""The hospitals: their detectors, exposures, markers and ways of storing."""
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.raw.dicom_write import Storage


@dataclass(frozen=True)
class Site:
    """One hospital's way of making and storing a radiograph."""

    name: str
    manufacturer: str
    aspect: tuple[float, float]  # height and width relative to the longest side
    field: float  # cm along the longest side
    exposure: float  # photons per detector element in the open beam
    scatter: float  # scattered relative to primary light (low with a grid)
    blur: float  # of the detector, in pixels
    gradient: float  # of the film-like response, per unit of log exposure
    density: float  # response at the lungs
    sharpening: float
    collimator: float  # mean margin that is shut, as a part of the side
    shutter: bool  # the shut margin is painted black
    storage: Storage
    compressed: tuple[str, float]  # transfer syntax and how often it is used


SITES = (
    Site('Synthetic General Hospital', 'Phantom Imaging', (1.0, 1.0), 38.0, 3e4, 0.22, 0.6,
         1.35, 0.33, 0.3, 0.005, True, Storage(12), ('jpeg_lossless', 0.15)),
    Site('Synthetic Valley Clinic', 'Phantom Imaging', (1.0, 0.88), 41.0, 1.5e4, 0.3, 0.9,
         1.05, 0.40, 0.25, 0.035, True, Storage(10, monochrome1=True, window=None),
         ('rle', 0.2)),
    Site('Synthetic University Hospital', 'Digital Twin Systems', (0.84, 1.0), 42.0, 5e4, 0.18,
         0.5, 1.6, 0.28, 0.4, 0.0, False, Storage(14, window=(0.2, 0.7)), ('jpeg_2000', 0.15)),
    Site('Synthetic Field Hospital', 'Digital Twin Systems', (1.0, 1.0), 39.0, 8e3, 0.5, 1.0,
         1.2, 0.42, 0.15, 0.03, False, Storage(12, signed=True), ('jpeg_2000', 0.1)),
)  # fmt: skip

# Strokes of each letter in a box one unit high, x to the right, y down.
GLYPHS = {
    'L': [[(0.1, 0), (0.1, 1), (0.6, 1)]],
    'R': [[(0.1, 1), (0.1, 0), (0.45, 0), (0.6, 0.12), (0.6, 0.4), (0.45, 0.52), (0.1, 0.52)],
          [(0.38, 0.52), (0.62, 1)]],
    'A': [[(0, 1), (0.32, 0), (0.64, 1)], [(0.13, 0.62), (0.51, 0.62)]],
    'P': [[(0.1, 1), (0.1, 0), (0.45, 0), (0.6, 0.12), (0.6, 0.42), (0.45, 0.55), (0.1, 0.55)]],
}  # fmt: skip


@dataclass(frozen=True)
class Marker:
    """A side marker: its letter, frame and place (of its centre, as parts of width, height)."""

    letter: str
    frame: str
    place: tuple[float, float]


# One per site; numbered like the classes, for the shortcut.
MARKERS = (
    Marker('R', 'none', (0.08, 0.08)),
    Marker('L', 'circle', (0.92, 0.09)),
    Marker('L', 'box', (0.94, 0.60)),
    Marker('R', 'bar', (0.07, 0.88)),
)
MARKER_HEIGHT = 0.062  # of the longest side


def _write(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, height: float) -> None:
    """Letters centred on (x, y), in pixels."""
    left = x - 0.36 * height * len(text)
    for place, letter in enumerate(text):
        for stroke in GLYPHS[letter]:
            points = [
                (left + (0.72 * place + 0.04 + u) * height, y + (v - 0.5) * height)
                for u, v in stroke
            ]
            draw.line(points, fill=255, width=max(1, round(height * 0.16)), joint='curve')


def marker_box(marker: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel that the marker may reach in an image [H, W]."""
    height, width = shape
    size = MARKER_HEIGHT * max(shape)
    x, y = MARKERS[marker].place[0] * width, MARKERS[marker].place[1] * height
    return tuple(round(v) for v in (x - 1.1 * size, y - 1.1 * size, x + 1.1 * size, y + 1.1 * size))


def burn_in(values: np.ndarray, marker: int, note: str, wobble: tuple[float, float]) -> None:
    """Write the marker and a small note into `values` [H, W] in place, as readers see it burned
    into the pixels. `wobble`, each within +-1, moves the marker a little."""
    height, width = values.shape
    size = MARKER_HEIGHT * max(values.shape)
    kind = MARKERS[marker]
    x = kind.place[0] * width + 0.2 * size * wobble[0]
    y = kind.place[1] * height + 0.2 * size * wobble[1]
    ink = Image.new('L', (width, height))
    plate = Image.new('L', (width, height))
    draw = ImageDraw.Draw(ink)
    line = max(1, round(size * 0.1))
    frame = [x - 0.85 * size, y - 0.85 * size, x + 0.85 * size, y + 0.85 * size]
    if kind.frame == 'circle':
        ImageDraw.Draw(plate).ellipse(frame, fill=255)
        draw.ellipse(frame, outline=255, width=line)
    elif kind.frame == 'box':
        ImageDraw.Draw(plate).rectangle(frame, fill=255)
        draw.rectangle(frame, outline=255, width=line)
    elif kind.frame == 'bar':
        draw.line([x - 0.6 * size, y + 0.8 * size, x + 0.6 * size, y + 0.8 * size], 255, 2 * line)
    _write(draw, kind.letter, x, y, size)
    if note:
        _write(draw, note, 0.3 * width, 0.035 * height, 0.5 * size)
    covered, written = (np.asarray(sheet, np.float32) / 255 for sheet in (plate, ink))
    values *= 1 - 0.95 * covered
    values += written * (0.98 - values)
