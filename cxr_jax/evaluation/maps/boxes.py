"""How much of a class activation map lies inside the radiologists' lesion boxes."""

from collections.abc import Sequence

import numpy as np

from cxr_jax.evaluation.maps.lungs import attention_inside_lungs, lung_area_fraction


def box_masks(boxes: Sequence[np.ndarray], size: int, grid: int) -> np.ndarray:
    """Union of each image's boxes as a mask of 0 and 1, uint8 [N, grid, grid].

    boxes: one array [n, 4] an image, (x, y, width, height) in pixels of the prepared image, whose
    side is `size`; pixels whose centre lies inside count. Brought to the map's grid as lung masks
    are: nearest neighbour.
    """
    # The prepared pixel nearest to each place of the grid, by its centre.
    centres = (2 * np.arange(grid) + 1) * size // (2 * grid) + 0.5
    masks = np.zeros((len(boxes), grid, grid), np.uint8)
    for mask, of_image in zip(masks, boxes, strict=True):
        for x, y, width, height in np.asarray(of_image, np.float64).reshape(-1, 4):
            rows = (y <= centres) & (centres < y + height)
            columns = (x <= centres) & (centres < x + width)
            mask |= np.outer(rows, columns).astype(np.uint8)
    return masks


def attention_inside_boxes(
    cams: np.ndarray, boxes: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the positive activation inside the union of the boxes, and the union's area.

    cams [N, S, S], already enlarged to the network's input size; boxes and size as in box_masks.
    Returns two arrays [N] in [0, 1]; the area is what a uniform map would reach. Both are NaN for
    an image without boxes (or with none that covers a place of the grid), the share also where no
    value of the map is positive. Conventions as in attention_inside_lungs.
    """
    masks = box_masks(boxes, size, cams.shape[-1])
    boxed = masks.any((-2, -1))
    share = attention_inside_lungs(np.asarray(cams, np.float64), masks)
    return np.where(boxed, share, np.nan), np.where(boxed, lung_area_fraction(masks), np.nan)
