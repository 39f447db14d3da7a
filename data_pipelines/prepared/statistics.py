"""Mean and standard deviation of the pixels of many images, exact, from integer sums of each."""

import math
from collections.abc import Iterable

import numpy as np

REGIONS = ('full', 'lungs_black', 'lungs_gray', 'background')


def pixel_sums(values: np.ndarray) -> tuple[int, int, int]:
    """Count, sum and sum of squares of the pixels of one image (or of its lungs)."""
    values = values.astype(np.uint64)
    return values.size, int(values.sum()), int((values * values).sum())


def statistics(sums: np.ndarray, lung_sums: np.ndarray | None, bits: int) -> dict[str, dict]:
    """{region: {'mean', 'std' (of the population)}} of the pixels on [0, 1].

    `sums`, `lung_sums`: int64 [N, 3] of every image, as of `pixel_sums`. The sums are integers,
    so the order of the images does not matter. Without `lung_sums` the region 'full' alone.
    lungs_gray fills with the mean of the full images.
    """
    top = 2**bits - 1
    n, total, squares = _add_up(sums)
    full = _mean_std(total / top, squares / top**2, n)
    if lung_sums is None:
        return {'full': full}
    lung_n, lung_total, lung_squares = _add_up(lung_sums)
    outside, fill = n - lung_n, full['mean']
    inside = lung_total / top, lung_squares / top**2
    return {
        'full': full,
        'lungs_black': _mean_std(*inside, n),
        'lungs_gray': _mean_std(inside[0] + outside * fill, inside[1] + outside * fill**2, n),
        'background': _mean_std((total - lung_total) / top, (squares - lung_squares) / top**2, n),
    }


def _add_up(sums: np.ndarray) -> Iterable[int]:
    # Python's integers: the squares of 100,000 images of 16 bits are beyond 64 bits.
    return (sum(column) for column in zip(*sums.tolist(), strict=True))


def _mean_std(total: float, squares: float, n: int) -> dict[str, float]:
    mean = total / n
    return {'mean': mean, 'std': math.sqrt(max(squares / n - mean**2, 0.0))}
