"""Image transforms against Pillow, SciPy and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from cxr_jax.views import geometry, intensity
from cxr_jax.views.region import REGIONS, needs_masks, select_region, to_unit_range


def noise(height: int, width: int, seed: int = 0):
    image = np.random.default_rng(seed).random((height, width, 1), np.float32)
    return jnp.asarray(image)


def pillow(image, top, left, height, width, size: int):
    box = (left, top, left + width, top + height)
    resized = Image.fromarray(np.asarray(image)[..., 0], 'F').resize(
        (size, size), Image.Resampling.BILINEAR, box=box
    )
    return np.asarray(resized)[..., None]


@pytest.mark.parametrize('size', [5, 16, 64])
@pytest.mark.parametrize(
    'box',
    [
        (0.0, 0.0, 30.0, 41.0),  # top, left, height, width: the whole image
        (3.25, 7.5, 20.0, 9.75),
        (0.0, 31.25, 9.5, 9.75),  # top right corner
        (25.5, 0.0, 4.5, 12.0),  # bottom left corner
        (13.0, 2.0, 17.0, 39.0),  # bottom right corner
    ],
)
def test_crop_resize_is_pillows(box, size):
    image = noise(30, 41)
    expected = pillow(image, *box, size)
    actual = geometry.crop_resize(image, *box, size)
    np.testing.assert_allclose(actual, expected, atol=2e-6)
    flipped = geometry.crop_resize(image, *box, size, flip=True)
    np.testing.assert_allclose(flipped, expected[:, ::-1], atol=2e-6)


def test_resize_is_pillows_without_a_box():
    image = noise(40, 23)
    expected = Image.fromarray(np.asarray(image)[..., 0], 'F').resize((17, 17), 2)
    np.testing.assert_allclose(geometry.resize(image, 17)[..., 0], expected, atol=2e-6)
    np.testing.assert_allclose(geometry.resize(noise(17, 17), 17), noise(17, 17), atol=1e-6)


@pytest.mark.parametrize('size', [7, 90])
def test_constant_images_stay_constant_up_to_the_border(size):
    image = jnp.full((31, 29, 1), 0.7)
    cropped = geometry.crop_resize(image, 11.3, 20.6, 19.7, 8.4, size)
    np.testing.assert_allclose(cropped, np.full((size, size, 1), 0.7), rtol=1e-6)
    for sigma in (0.1, 2.0, 9.0):
        np.testing.assert_allclose(intensity.gaussian_blur(image, sigma), image, rtol=1e-6)


@pytest.mark.parametrize('size', [4, 13, 50])
def test_mask_takes_the_pixel_under_each_centre(size):
    mask = np.random.default_rng(1).integers(0, 2, (20, 27, 1)).astype(np.uint8)
    expected = np.empty((size, size, 1), np.uint8)
    for i in range(size):
        for j in range(size):
            expected[i, j] = mask[int((i + 0.5) * 20 / size), int((j + 0.5) * 27 / size)]
    actual = geometry.resize_mask(jnp.asarray(mask), size)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == np.uint8


@pytest.mark.parametrize('degrees', [-70.0, -10.0, 15.0, 45.0])
def test_rotation_is_scipys_inside_the_image(degrees):
    image = noise(40, 31)

    def scipys(pixels):
        return ndimage.rotate(pixels, degrees, order=1, reshape=False)

    inside = ndimage.binary_erosion(scipys(np.ones((40, 31))) > 0.999)
    assert inside.sum() > 200
    actual = geometry.rotate(image, np.deg2rad(degrees))[..., 0]
    expected = scipys(np.asarray(image[..., 0], np.float64))
    np.testing.assert_allclose(actual[inside], expected[inside], atol=1e-4)


def test_rotation_is_counter_clockwise_and_black_outside():
    image = noise(25, 25)
    for turns in (1, 2, 3):
        turned = geometry.rotate(image, turns * np.pi / 2)
        np.testing.assert_allclose(
            turned[1:-1, 1:-1], np.rot90(image, turns)[1:-1, 1:-1], atol=1e-5
        )
    corners = geometry.rotate(jnp.ones((25, 25, 1)), np.pi / 4)[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners, np.zeros((4, 1)))


@pytest.mark.parametrize('sigma', [0.3, 1.0, 2.0])
def test_blur_is_scipys(sigma):
    image = np.asarray(noise(30, 22))
    actual = intensity.gaussian_blur(jnp.asarray(image), sigma)

    def blurred(x):
        return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode='constant', truncate=20)

    # Dividing by the blurred ones is what renormalising the weights at the border means.
    expected = blurred(image.astype(np.float64)) / blurred(np.ones(image.shape))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_solarisation_is_pillows():
    pixels = np.arange(256, dtype=np.uint8)[None]
    expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels)), np.float32) / 255
    solarized = intensity.solarize(jnp.asarray(pixels[..., None] / np.float32(255)))
    np.testing.assert_allclose(solarized[..., 0], expected, atol=1e-6)


def test_brightness_and_contrast_are_clipped_one_after_the_other():
    image = noise(9, 9)
    pixels = np.asarray(image, np.float64)
    keys = jax.random.split(jax.random.key(0), 20)
    draw = jax.vmap(intensity.random_brightness_contrast, (0, None, None, None))
    brighter = np.asarray(draw(keys, image, 0.9, 0.0), np.float64)
    factor = np.median(brighter / pixels, (1, 2, 3), keepdims=True)
    assert (pixels.max() * factor > 1).sum() >= 5
    np.testing.assert_allclose(brighter, np.clip(pixels * factor, 0, 1), atol=1e-5)
    # The same keys draw the same brightness, so only the contrast is unknown.
    mean = brighter.mean((1, 2, 3), keepdims=True)
    for view, start, middle in zip(
        np.asarray(draw(keys, image, 0.9, 0.9)), brighter, mean, strict=True
    ):
        free = (view > 0) & (view < 1) & (abs(start - middle) > 0.01)
        contrast = np.median(((view - middle) / (start - middle))[free])
        expected = np.clip(middle + (start - middle) * contrast, 0, 1)
        np.testing.assert_allclose(view, expected, atol=1e-4)


@pytest.mark.parametrize('region', REGIONS)
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_regions_of_stored_pixels(region, dtype):
    rng, top = np.random.default_rng(2), np.iinfo(dtype).max
    stored = rng.integers(0, top, (3, 5, 4, 1), dtype, endpoint=True)
    stored[0, 0, :2, 0] = 0, top
    mask = rng.integers(0, 2, stored.shape, np.uint8)
    pixels = stored / float(top)
    expected = {
        'full': pixels,
        'lungs_black': pixels * mask,
        'lungs_gray': pixels * mask + 0.5234 * (1 - mask),
        'background': pixels * (1 - mask),
    }[region]
    given = jnp.asarray(mask) if needs_masks(region) else None
    actual = select_region(to_unit_range(jnp.asarray(stored)), given, region, 0.5234)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert actual.dtype == jnp.float32 and actual.max() <= 1
