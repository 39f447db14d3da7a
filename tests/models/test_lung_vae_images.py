"""The way of a radiograph to lungVAE's canvas, and of its mask back, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cxr_jax.models import lung_vae
from cxr_jax.models.lung_vae_images import (
    CANVAS,
    close_with_disk,
    equalize_histogram,
    largest_components,
    placement,
    resize_bilinear,
    to_canvas,
    to_mask,
)
from data_pipelines.errors import UserError

RNG = np.random.default_rng(4)
# Width limits, height limits, height limits by one pixel (the reference fails there).
SHAPES = {(300, 420): (320, 448), (900, 400): (576, 256), (2577, 2000): (576, 447)}


def test_equalisation_by_counting():
    """Every value's share of pixels at or below its bin, on the line between two bins' centres."""
    pixels = RNG.random((40, 30)) ** 3 * 0.7 + 0.1
    low, width = pixels.min(), np.ptp(pixels) / 256
    bins = np.minimum(((pixels - low) / width).astype(int), 255)
    share = np.array([(bins <= i).mean() for i in range(256)])
    position = np.clip((pixels - low) / width - 0.5, 0, 255)
    below = np.minimum(position.astype(int), 254)
    expected = share[below] + (position - below) * (share[below + 1] - share[below])
    np.testing.assert_allclose(equalize_histogram(pixels), expected, atol=1e-6)


def test_equalisation_of_few_values():
    pixels = np.repeat([0.2, 0.3, 0.8], [50, 30, 20]).reshape(10, 10)
    expected = np.repeat([0.5, 0.8, 1.0], [50, 30, 20]).reshape(10, 10)
    np.testing.assert_allclose(equalize_histogram(pixels), expected, atol=0.003)
    assert np.isfinite(equalize_histogram(np.zeros((4, 4)))).all()


def resizing_matrix(before, after):
    """[after, before]: Gaussian of sigma (factor - 1) / 2 cut at 4 sigma, then interpolation; both
    mirrored at the first and last pixel's centre."""
    factor = before / after
    sigma = (factor - 1) / 2

    def mirrored(i):
        i = abs(i) % (2 * before - 2)
        return min(i, 2 * before - 2 - i)

    smooth = np.zeros((before, before))
    radius = int(4 * sigma + 0.5) if sigma > 0 else 0
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    for row in range(before):
        for offset, tap in zip(range(-radius, radius + 1), taps / taps.sum(), strict=True):
            smooth[row, mirrored(row + offset)] += tap
    matrix = np.zeros((after, before))
    for row in range(after):
        position = abs((row + 0.5) * factor - 0.5)
        position = min(position, 2 * before - 2 - position)
        left = min(int(position), before - 2)
        matrix[row, left : left + 2] += [1 - (position - left), position - left]
    return matrix @ smooth


@pytest.mark.parametrize('shape', [(9, 11), (30, 50), (64, 10), (31, 40)])
def test_resizing_is_two_matrices(shape):
    image = RNG.random((31, 40))
    expected = resizing_matrix(31, shape[0]) @ image @ resizing_matrix(40, shape[1]).T
    resized = resize_bilinear(image, shape)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize('shape', SHAPES)
def test_placement(shape):
    rows, columns = placement(shape)
    assert (rows.stop - rows.start, columns.stop - columns.start) == SHAPES[shape]
    for part, length in zip((rows, columns), CANVAS, strict=True):
        before, after = part.start, length - part.stop
        assert 0 <= after - before <= 1 and before >= 32


def test_every_aspect_fits():
    for height in (*range(1, 3000, 7), *range(1280, 1300)):
        for width in (1, 1000, 2021):
            rows, columns = placement((height, width))
            assert 32 <= rows.start < rows.stop <= 608
            assert 32 <= columns.start < columns.stop <= 480


def ellipses(shape, *given):
    """bool [*shape]; each ellipse (y, x, height, width) in shares of the image."""
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    inside = [((y[:, None] - cy) / h) ** 2 + ((x - cx) / w) ** 2 < 0.25 for cy, cx, h, w in given]
    return np.logical_or.reduce(inside)


@pytest.mark.parametrize('shape', SHAPES)
def test_segment_takes_and_returns_native_pixels(shape, monkeypatch):
    """The probability being the equalised canvas: both lungs come back where they were, a third,
    smaller spot does not."""
    lungs = ellipses(shape, (0.4, 0.25, 0.6, 0.3), (0.5, 0.75, 0.5, 0.3))
    spot = ellipses(shape, (0.9, 0.5, 0.05, 0.1))
    dark = 1 - (lungs | spot).mean()  # what equalisation makes of the dark value
    asked = []

    def probability(variables, images, key, train):
        asked.append((key, train))
        return images - (dark + 1) / 2 + 0.5

    monkeypatch.setattr(lung_vae, '_probability', probability)
    pixels = np.where(lungs | spot, 0.3, 0.2)
    mask = lung_vae.segment({}, pixels)
    assert mask.shape == shape and mask.dtype == bool
    assert (mask & lungs).sum() / (mask | lungs).sum() > 0.97
    assert not (mask & spot).any()
    lung_vae.segment({}, pixels, batch_norm='running', key='a key')
    assert asked == [(None, True), ('a key', False)]


def test_padding_at_exactly_one_half_is_not_lung():
    """The reference's probability outside the image, and inside where the network is undecided."""
    for shape in SHAPES:
        rectangle = placement(shape)
        assert not to_mask(np.full(CANVAS, 0.5), rectangle, shape).any()
        assert not to_mask(np.zeros(CANVAS), rectangle, shape).any()
        assert to_mask(np.ones(CANVAS), rectangle, shape).all()
        outside = np.ones(CANVAS)
        outside[rectangle] = 0.4
        assert not to_mask(outside, rectangle, shape).any()


def test_canvas_is_zero_around_the_image():
    canvas, (rows, columns) = to_canvas(RNG.random((300, 420)) + 1)
    assert canvas[rows, columns].min() > 0
    canvas[rows, columns] = 0
    assert not canvas.any()


def test_two_largest_components():
    """8-connected; the third, though almost as large, goes."""
    text = """
        ##......##
        ##......##
        ..#.......
        ....##....
        ....##....
        .......##.
    """
    mask = np.array([[c == '#' for c in line.strip()] for line in text.strip().splitlines()])
    kept = largest_components(mask, 2)
    expected = mask.copy()
    expected[3:, :] = False
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(largest_components(expected, 9), expected)
    assert not largest_components(np.zeros((5, 5), bool), 2).any()


def test_closing_equals_the_definition():
    """Dilation, then erosion by the disk, with SciPy's own operators; also at the border."""
    mask = ndimage.gaussian_filter(RNG.random((90, 80)), 3) > 0.5
    y, x = np.mgrid[-5:6, -5:6]
    disk = y**2 + x**2 <= 25
    dilated = ndimage.binary_dilation(mask, disk)
    expected = ndimage.binary_erosion(dilated, disk, border_value=True)
    assert (expected != mask).mean() > 0.01
    np.testing.assert_array_equal(close_with_disk(mask, 5), expected)
    for constant in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        np.testing.assert_array_equal(close_with_disk(constant, 5), constant)


def test_segment_with_a_network():
    """Whose logits are the same everywhere: above zero the whole image, at zero nothing."""
    images = jnp.zeros((1, *CANVAS, 1))
    shapes = jax.eval_shape(lung_vae.LungVAE(hidden=1).init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    pixels = RNG.random((60, 50))
    for logit, share in ((1, 1), (0, 0), (-1, 0)):
        variables['params']['dec12']['bias'][:] = logit
        mask = lung_vae.segment(variables, pixels)
        assert mask.shape == (60, 50) and mask.mean() == share
    with pytest.raises(UserError, match="'image', 'running'"):
        lung_vae.segment(variables, pixels, batch_norm='eval')
