"""From an image of any shape to size x size: padded to a centred square, then area-averaged.

One geometry for pixels, masks, boxes and pixel spacing. `shape` is (H, W) of the original image,
`spacing` its pixel size in mm (row, column), which matters only where the two differ. The square
has a side of `least` original pixels or more, so that a small image need not be enlarged.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Axis:
    """Prepared = (original + before) / step, both counted from the image's edge."""

    length: int  # original pixels
    before: int  # pixels of padding; whole ones, so that no padding blurs the image
    step: float  # original pixels to a prepared pixel


def _axes(
    shape: tuple[int, int], size: int, spacing: tuple[float, float] | None, least: int
) -> tuple[_Axis, _Axis]:
    height, width = (1.0, 1.0) if spacing is None else spacing
    if not (np.isfinite(height) and np.isfinite(width)):
        height = width = 1.0
    # Lengths are in units of a column, hence exact integers for square pixels.
    aspect = height / width
    side = max(shape[0] * aspect, shape[1], least)
    return tuple(
        _Axis(n, int(max(side / pixel - n, 0) // 2), side / pixel / size)
        for n, pixel in zip(shape, (aspect, 1.0), strict=True)
    )


def _coverage(axis: _Axis, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First original pixel under each prepared pixel, int [size], and the shares [size, k] that
    this one and those that follow have in it; shares of padding are left out, so they sum to <= 1.
    """
    edges = np.clip(np.arange(size + 1) * axis.step - axis.before, 0, axis.length)
    low, high = edges[:-1, None], edges[1:, None]
    starts = np.minimum(edges[:-1].astype(int), axis.length - 1)
    pixel = starts[:, None] + np.arange(int(np.ceil(axis.step)) + 1)
    shares = np.minimum(pixel + 1, high) - np.maximum(pixel, low)
    return starts, (np.maximum(shares, 0) / axis.step).astype(np.float32)


def _cover_rows(pixels: np.ndarray, axis: _Axis, size: int) -> np.ndarray:
    """[H, W] -> float32 [size, W]: each prepared row is the weighted sum of the rows it covers."""
    starts, shares = _coverage(axis, size)
    out = np.empty((size, pixels.shape[1]), np.float32)
    for start, share, row in zip(starts, shares, out, strict=True):
        covered = pixels[start : start + len(share)]
        # einsum, as BLAS would start threads that fight over the cores of other workers
        np.einsum('k,kw->w', share[: len(covered)], covered, out=row)
    return out


def pad_to_square_and_resize(
    pixels: np.ndarray, size: int, spacing: tuple[float, float] | None = None, least: int = 0
) -> np.ndarray:
    """[H, W] -> float32 [size, size], aspect ratio kept, padded with 0 to a centred square.

    Each prepared pixel is the mean over exactly the area it covers, fractions of pixels included;
    enlarging repeats pixels, with means where a border is crossed.
    """
    vertical, horizontal = _axes(pixels.shape, size, spacing, least)
    rows = _cover_rows(pixels, vertical, size)
    return np.ascontiguousarray(_cover_rows(rows.T, horizontal, size).T)


def resize_mask_nearest(
    mask: np.ndarray, size: int, spacing: tuple[float, float] | None = None, least: int = 0
) -> np.ndarray:
    """[H, W] -> [size, size] of the same dtype: the original pixel under each prepared pixel's
    centre, 0 in the padding."""
    chosen, inside = [], []
    for axis in _axes(mask.shape, size, spacing, least):
        pixel = np.floor((np.arange(size) + 0.5) * axis.step - axis.before).astype(int)
        chosen.append(np.clip(pixel, 0, axis.length - 1))
        inside.append((pixel >= 0) & (pixel < axis.length))
    return mask[np.ix_(*chosen)] * np.outer(*inside).astype(mask.dtype)


def transform_boxes(
    boxes: np.ndarray,
    shape: tuple[int, int],
    size: int,
    spacing: tuple[float, float] | None = None,
    least: int = 0,
) -> np.ndarray:
    """Boxes [N, 4] (x, y, w, h) in original pixels -> float32 [N, 4] in prepared pixels."""
    vertical, horizontal = _axes(shape, size, spacing, least)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    before = np.array([horizontal.before, vertical.before, 0, 0])
    step = np.array([horizontal.step, vertical.step] * 2)
    return ((boxes + before) / step).astype(np.float32)


def prepared_spacing(
    shape: tuple[int, int], size: int, spacing: tuple[float, float], least: int = 0
) -> tuple[float, float]:
    """mm per prepared pixel (row, column); nan where unknown."""
    vertical, horizontal = _axes(shape, size, spacing, least)
    return spacing[0] * vertical.step, spacing[1] * horizontal.step
