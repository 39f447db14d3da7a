"""A look: an image as small, as comparable, as it can be, whatever its size, bits, gamma, margins.

Margins without content are cut off, grey values become ranks (so that no monotonic change of them
matters), and what is left is squeezed into a square of SIDE pixels.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 64
# A row or column whose values differ by less than this share of the image's range is a margin.
FLAT = 0.06


class Box(NamedTuple):
    """Rows top .. bottom - 1 and columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def content_box(image: np.ndarray) -> Box:
    """What is left of an image [R, R] without margins: padding, collimated or empty borders."""
    spread = float(np.ptp(image)) * FLAT
    top, bottom = _ends(np.ptp(image, axis=1) > spread)
    left, right = _ends(np.ptp(image[top:bottom], axis=0) > spread)
    return Box(top, bottom, left, right)


def look_at(image: np.ndarray, box: Box) -> np.ndarray:
    """The ranks of the pixels of the box, uint8 [SIDE, SIDE] from 0 (darkest) to 255."""
    content = image[box.top : box.bottom, box.left : box.right]
    count = np.bincount(content.ravel())
    # Equal values share the middle of their ranks.
    rank = ((np.cumsum(count) - count / 2) / content.size * 255).astype(np.float32)
    small = Image.fromarray(rank[content]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(small)).astype(np.uint8)


def _ends(full: np.ndarray) -> tuple[int, int]:
    """First and last + 1 of those that are full; all of them if none is."""
    where = np.flatnonzero(full)
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, len(full))
