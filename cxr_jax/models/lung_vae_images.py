"""What lung_vae does outside its network: a radiograph's way to the canvas, its mask's way back.

As the published predict.py and postProcess.py do it (github.com/raghavian/lungVAE; Selvan et al.
2020, arXiv:2005.10052), in NumPy and SciPy alone.
"""

import numpy as np
from scipy import ndimage

CANVAS = (640, 512)
PADDING = 32  # zeros around the largest image
BINS = 256  # of the histogram
CLOSING_RADIUS = 11  # pixels of the canvas

Rectangle = tuple[slice, slice]


def equalize_histogram(pixels: np.ndarray) -> np.ndarray:
    """[H, W] -> float32 [H, W]: each value's share of pixels at or below it, in [0, 1].

    The cumulative histogram over 256 bins from the least to the largest value, interpolated between
    the bins' centres (scikit-image's equalize_hist for floats), so dividing the pixels by their
    maximum first, as the reference does, changes nothing.
    """
    counts, edges = np.histogram(pixels, BINS)
    shares = counts.cumsum() / pixels.size
    return np.interp(pixels, (edges[:-1] + edges[1:]) / 2, shares).astype(np.float32)


def resize_bilinear(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[H, W] -> [*shape], bilinear with half-pixel centres; a reduced axis is smoothed first.

    Smoothed because bilinear interpolation reads two pixels an axis: reduced five-fold without it,
    a radiograph keeps the full noise of those that are read. scikit-image smooths by default since
    version 0.15; the reference names no version.
    """
    factors = np.divide(image.shape, shape)
    sigma = np.maximum(0, (factors - 1) / 2)
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), sigma, mode='mirror')
    return ndimage.zoom(smooth, 1 / factors, order=1, mode='mirror', grid_mode=True)


def placement(shape: tuple[int, int]) -> Rectangle:
    """Where an image of `shape` lies on the canvas: width 448, or less if its height were over 576.

    By its true width, also where that is 447: there the reference pastes it into 448 and fails.
    """
    height, width = shape
    largest = [n - 2 * PADDING for n in CANVAS]
    # In this order: the reference's rounding of the quotients decides the last pixel.
    placed = [int(height / (width / largest[1])), largest[1]]
    if placed[0] > largest[0]:
        placed = [largest[0], int(width / (height / largest[0]))]
    placed = [max(n, 1) for n in placed]
    starts = [PADDING + (most - n) // 2 for most, n in zip(largest, placed, strict=True)]
    rows, columns = (slice(start, start + n) for start, n in zip(starts, placed, strict=True))
    return rows, columns


def to_canvas(pixels: np.ndarray) -> tuple[np.ndarray, Rectangle]:
    """[H, W] at native resolution, bright = dense -> (float32 [640, 512], where the image lies).

    Equalised before it is made smaller, as the reference does; zero around it.
    """
    canvas = np.zeros(CANVAS, np.float32)
    rectangle = placement(pixels.shape)
    shape = canvas[rectangle].shape
    canvas[rectangle] = resize_bilinear(equalize_histogram(pixels), shape)
    return canvas, rectangle


def to_mask(probability: np.ndarray, rectangle: Rectangle, shape: tuple[int, int]) -> np.ndarray:
    """Probability of lung [640, 512] -> lung mask bool [*shape], the image lying in `rectangle`.

    Above 0.5 in the rectangle; the two largest components; closed; cut out, resized. The reference
    sets the probability around the image to 0.5 exactly, so a threshold that includes 0.5 would
    take the padding for lung; here the padding is never looked at.
    """
    lungs = np.zeros(CANVAS, bool)
    lungs[rectangle] = probability[rectangle] > 0.5
    lungs = close_with_disk(largest_components(lungs, 2), CLOSING_RADIUS)
    return resize_bilinear(lungs[rectangle], shape) > 0.5


def largest_components(mask: np.ndarray, number: int) -> np.ndarray:
    """The `number` largest 8-connected components of a bool mask; fewer if there are fewer.

    Of components of equal size the upper one, then the left one is kept. An empty mask stays empty;
    the reference's argmax over no component returns the background, so the whole image.
    """
    labels, found = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    kept = np.argsort(-areas, kind='stable')[:number] + 1
    return np.isin(labels, kept)


def close_with_disk(mask: np.ndarray, radius: float) -> np.ndarray:
    """Binary closing with the disk of all pixels within `radius` of its centre.

    Outside the array nothing is dilated and nothing eroded, as in scikit-image.
    """
    return ~_dilate(~_dilate(mask, radius), radius)


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    # By distances, as SciPy's own dilation visits the whole disk (377 pixels) at every pixel.
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= radius
