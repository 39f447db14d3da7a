"""What tells that an image is no frontal chest radiograph, or a poor one: numbers of its pixels."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import grey_opening, uniform_filter

from data_pipelines.auditing.looks import SIDE, Box

# Mean rank, in percent, in the left half of the 8 x 8 parts of 12,000 frontal radiographs.
FRONTAL = np.array([
    [19, 23, 28, 50], [46, 46, 33, 46], [56, 46, 24, 48], [52, 43, 27, 58],
    [45, 42, 39, 70], [40, 47, 57, 79], [35, 60, 76, 88], [34, 69, 85, 90],
])  # fmt: skip
_FRONTAL = np.concatenate([FRONTAL, FRONTAL[:, ::-1]], axis=1).astype(np.float32)
TEXT_SIDE = 128  # pixels on a side of the image in which letters are looked for


class Measures(NamedTuple):
    """Of one image; shares are of 1."""

    spread: float  # grey values between the 1st and the 99th percentile, of all that there are
    frontal: float  # correlation of the coarse look with the average frontal radiograph
    symmetry: float  # correlation of the coarse look with its mirror image
    corner: float  # mean of the brightest corner of the content, of its range
    dark: float  # share of the content that is darker than 5 % of its range
    text: float  # share of thin bright structures where they are densest
    margin: float  # share of the radiograph that is empty border


def measure(
    image: np.ndarray, box: Box, look: np.ndarray, original_size: tuple[int, int]
) -> Measures:
    """Of an image uint8 or uint16 [R, R], its content box and its look; `original_size` is the
    (H, W) before it was padded to a square."""
    content = image[box.top : box.bottom, box.left : box.right]
    low, high = np.percentile(content, (1, 99))
    shown = np.clip((content - low) / max(high - low, 1), 0, 1).astype(np.float32)
    coarse = look.reshape(8, SIDE // 8, 8, SIDE // 8).mean((1, 3))
    height, width = (max(n // 8, 1) for n in shown.shape)
    ends = (slice(height), slice(-height, None)), (slice(width), slice(-width, None))
    long, short = max(original_size), min(original_size)
    return Measures(
        spread=float(high - low) / np.iinfo(image.dtype).max,
        frontal=_correlation(coarse, _FRONTAL),
        symmetry=_correlation(coarse, coarse[:, ::-1]),
        corner=float(max(shown[y, x].mean() for y in ends[0] for x in ends[1])),
        dark=float((shown < 0.05).mean()),
        text=_text(shown),
        margin=max(0.0, 1 - content.size / (image.size * short / long)),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


def _text(shown: np.ndarray) -> float:
    """Letters are bright and thin: an opening of their size takes them away. Many of them fill a
    part of the image that is a tenth high and a quarter wide."""
    if max(shown.shape) > TEXT_SIDE:
        small = Image.fromarray(shown).resize((TEXT_SIDE, TEXT_SIDE), Image.Resampling.BOX)
        shown = np.asarray(small)
    side = max(shown.shape)
    thin = max(3, side // 24) | 1
    letters = (shown - grey_opening(shown, (thin, thin)) > 0.2).astype(np.float32)
    part = max(3, side // 10), max(3, side // 4)
    return float(uniform_filter(letters, part, mode='constant').max())
