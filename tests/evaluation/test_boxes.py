"""Attention inside lesion boxes against plain loops, closed forms and invariances."""

import numpy as np
import pytest

from cxr_jax.evaluation.maps.boxes import attention_inside_boxes, box_masks

NO_BOXES = np.zeros((0, 4), np.float32)


def loop_mask(boxes, size, grid):
    """Pixel by pixel: the nearest prepared pixel's centre, in any box?"""
    mask = np.zeros((grid, grid), int)
    for i in range(grid):
        for j in range(grid):
            row, column = (int((k + 0.5) * size / grid) + 0.5 for k in (i, j))
            mask[i, j] = any(
                y <= row < y + h and x <= column < x + w for x, y, w, h in boxes.tolist()
            )
    return mask


@pytest.mark.parametrize(('size', 'grid'), [(32, 32), (32, 64), (48, 20), (31, 7)])
def test_masks_equal_a_loop_over_pixels(size, grid):
    rng = np.random.default_rng(size + grid)
    boxes = [np.column_stack([rng.uniform(-4, size, (n, 2)), rng.uniform(1, size / 2, (n, 2))])
             for n in (0, 1, 3)]  # fmt: skip
    masks = box_masks(boxes, size, grid)
    assert masks.dtype == np.uint8 and masks.shape == (3, grid, grid)
    for mask, of_image in zip(masks, boxes, strict=True):
        np.testing.assert_array_equal(mask, loop_mask(of_image, size, grid))
    assert masks[2].any() and not masks[0].any()


def test_x_is_the_column_and_y_the_row():
    mask = box_masks([np.array([[1, 4, 2, 3]])], 8, 8)[0]
    expected = np.zeros((8, 8))
    expected[4:7, 1:3] = 1
    np.testing.assert_array_equal(mask, expected)


def test_masks_are_brought_to_the_grid_as_lung_masks_are():
    from cxr_jax.views.geometry import resize_mask

    boxes = [np.array([[3.2, 7.9, 11, 6.4], [10, 2, 5, 20]])]
    full = box_masks(boxes, 32, 32)[0]
    for grid in (16, 24, 60):
        expected = np.asarray(resize_mask(full[..., None], grid))[..., 0]
        np.testing.assert_array_equal(box_masks(boxes, 32, grid)[0], expected)


def test_share_and_area_of_known_maps():
    cam = np.zeros((4, 4))
    cam[0, 0], cam[1, 1], cam[3, 3], cam[2, 0] = 3.0, 1.0, 4.0, -100.0
    boxes = np.array([[0, 0, 2, 2], [1, 1, 2, 2]])  # 4 + 4 pixels, one of them shared
    share, area = attention_inside_boxes(cam[None], [boxes], 4)
    assert share[0] == 0.5 and area[0] == 7 / 16
    double = np.concatenate([boxes, boxes])
    assert attention_inside_boxes(cam[None], [double], 4)[0][0] == 0.5
    uniform, area = attention_inside_boxes(np.full((1, 4, 4), 0.3), [boxes], 4)
    assert uniform[0] == pytest.approx(area[0], rel=1e-12)


def test_images_without_boxes_or_without_activation_are_nan():
    box, outside = np.array([[0, 0, 2, 2]]), np.array([[50, 50, 2, 2]])
    cams = np.ones((4, 4, 4))
    cams[3] = -1
    share, area = attention_inside_boxes(cams, [box, NO_BOXES, outside, box], 4)
    np.testing.assert_array_equal(share, [0.25, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(area, [0.25, np.nan, np.nan, 0.25])
