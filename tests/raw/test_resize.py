"""Area resizing against integral images and block means; masks, boxes and spacing agree with it."""

import numpy as np
import pytest

from data_pipelines.raw.resize import (
    pad_to_square_and_resize,
    prepared_spacing,
    resize_mask_nearest,
    transform_boxes,
)

RNG = np.random.default_rng(5)


def padded(pixels):
    height, width = pixels.shape
    side = max(pixels.shape)
    square = np.zeros((side, side))
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def area_mean(square, size):
    """Differences of the integral image, read between its grid points by interpolation."""
    integral = np.pad(square, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    edges = np.linspace(0, len(square), size + 1)
    grid = np.arange(len(square) + 1)
    integral = np.stack([np.interp(edges, grid, row) for row in integral])
    integral = np.stack([np.interp(edges, grid, column) for column in integral.T], axis=1)
    return np.diff(np.diff(integral, axis=0), axis=1) / (len(square) / size) ** 2


@pytest.mark.parametrize(
    'shape, size',
    [((97, 61), 16), ((61, 97), 16), ((250, 205), 64), ((33, 33), 32), ((20, 31), 64), ((3, 1), 7)],
)
def test_area_is_exact_for_any_factor(shape, size):
    pixels = RNG.random(shape, dtype=np.float32)
    resized = pad_to_square_and_resize(pixels, size)
    assert resized.dtype == np.float32 and resized.flags['C_CONTIGUOUS']
    np.testing.assert_allclose(resized, area_mean(padded(pixels), size), atol=1e-6)


def test_whole_factors():
    pixels = RNG.random((96, 96), dtype=np.float32)
    blocks = pixels.astype(np.float64).reshape(32, 3, 32, 3).mean((1, 3))
    np.testing.assert_allclose(pad_to_square_and_resize(pixels, 32), blocks, atol=1e-6)
    np.testing.assert_array_equal(pad_to_square_and_resize(pixels, 96), pixels)
    enlarged = pixels.repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(pad_to_square_and_resize(pixels, 192), enlarged, atol=1e-6)


def test_odd_padding_does_not_blur():
    pixels = RNG.random((32, 27), dtype=np.float32)
    np.testing.assert_array_equal(pad_to_square_and_resize(pixels, 32), padded(pixels))


@pytest.mark.parametrize('shape', [(40, 30), (30, 80)])
def test_spacing_makes_pixels_square(shape):
    """Rows twice as far apart as columns: the same as every row standing there twice."""
    pixels = RNG.random(shape, dtype=np.float32)
    resized = pad_to_square_and_resize(pixels, 24, spacing=(0.2, 0.1))
    expected = pad_to_square_and_resize(pixels.repeat(2, 0), 24)
    np.testing.assert_allclose(resized, expected, atol=1e-6)
    for same in ((0.1, 0.1), (np.nan, np.nan), None):
        np.testing.assert_array_equal(
            pad_to_square_and_resize(pixels, 24, same), pad_to_square_and_resize(pixels, 24)
        )


@pytest.mark.parametrize('spacing', [None, (0.2, 0.1), (0.14, 0.143)])
@pytest.mark.parametrize('shape', [(90, 61), (61, 90)])
def test_masks_and_boxes_follow_the_pixels(shape, spacing):
    box = np.array([10, 20, 30, 35])  # x, y, w, h
    mask = np.zeros(shape, np.uint8)
    mask[20:55, 10:40] = 1
    resized = resize_mask_nearest(mask, 128, spacing)
    assert resized.dtype == np.uint8 and set(np.unique(resized)) == {0, 1}
    area = pad_to_square_and_resize(mask.astype(np.float32), 128, spacing)
    assert np.mean((area > 0.5) != resized) < 0.005
    x, y, w, h = transform_boxes(box[None], shape, 128, spacing)[0]
    rows, columns = np.flatnonzero(resized.any(1)), np.flatnonzero(resized.any(0))
    measured = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    np.testing.assert_allclose([x, y, w, h], measured, atol=1)
    np.testing.assert_allclose(w * h, area.sum(), rtol=1e-5)
    ys, xs = np.mgrid[:128, :128] + 0.5
    np.testing.assert_allclose((area * xs).sum() / area.sum(), x + w / 2, atol=0.05)
    np.testing.assert_allclose((area * ys).sum() / area.sum(), y + h / 2, atol=0.05)


def test_mask_is_nearest_and_0_in_the_padding():
    mask = RNG.integers(0, 2, (30, 45)).astype(np.uint8)
    np.testing.assert_array_equal(resize_mask_nearest(mask, 45), padded(mask))
    np.testing.assert_array_equal(resize_mask_nearest(mask, 15), padded(mask)[1::3, 1::3])
    assert resize_mask_nearest(np.ones((1, 10), bool), 20).dtype == bool


def test_small_images_keep_their_pixels_in_a_least_square():
    """Pixels, mask, boxes and spacing alike; an image larger than it is not touched by it."""
    pixels = RNG.random((6, 9)).astype(np.float32)
    expected = np.pad(pixels, ((7, 7), (5, 6)))
    np.testing.assert_allclose(pad_to_square_and_resize(pixels, 20, least=20), expected, atol=1e-6)
    mask = (pixels > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(resize_mask_nearest(mask, 20, least=20), expected > 0.5)
    boxes = transform_boxes([[1, 2, 3, 4]], (6, 9), 20, least=20)
    np.testing.assert_allclose(boxes, [[6, 9, 3, 4]])
    assert prepared_spacing((6, 9), 20, (0.2, 0.2), least=20) == (0.2, 0.2)
    large = RNG.random((30, 45)).astype(np.float32)
    same = pad_to_square_and_resize(large, 20)
    np.testing.assert_array_equal(pad_to_square_and_resize(large, 20, least=20), same)


def test_boxes_by_hand():
    boxes = transform_boxes([[100, 200, 50, 80]], (1000, 800), 100)
    np.testing.assert_allclose(boxes, [[20, 20, 5, 8]], atol=1e-5)
    assert transform_boxes([], (1000, 800), 100).shape == (0, 4)


def test_prepared_spacing():
    np.testing.assert_allclose(prepared_spacing((2500, 2048), 250, (0.1, 0.1)), (1.0, 1.0))
    # 100 x 100 pixels, 20 mm high and 10 mm wide, in 50 x 50: 20 mm / 50 both ways
    np.testing.assert_allclose(prepared_spacing((100, 100), 50, (0.2, 0.1)), (0.4, 0.4))
    assert np.isnan(prepared_spacing((9, 9), 3, (np.nan, np.nan))).all()
