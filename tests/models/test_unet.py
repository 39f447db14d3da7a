"""The U-Net against indexing and counting; its behaviour under shifts and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.unet import UNet, build_unet, double, from_patches, halve, to_patches
from cxr_jax.runtime import parallel

TINY = UNet(width=4, depth=2)


@pytest.fixture(scope='module')
def variables():
    images = jnp.zeros((2, 32, 32, 1))
    fresh = jax.jit(functools.partial(TINY.init, train=True))(jax.random.key(0), images)
    # Statistics other than 0 and 1, as after training.
    stats = jax.tree.map(lambda x: x - 0.1, fresh['batch_stats'])
    return {'params': fresh['params'], 'batch_stats': stats}


def test_patches_and_their_way_back():
    x = np.random.default_rng(0).random((3, 6, 4, 1)).astype(np.float32)
    patches = to_patches(x)
    for i, j in np.ndindex(3, 2):
        np.testing.assert_array_equal(
            patches[:, i, j], x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0].reshape(3, 4)
        )
    np.testing.assert_array_equal(from_patches(patches), x)


def test_halving_and_doubling():
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(halve(x), np.maximum.reduce(corners))
    np.testing.assert_array_equal(double(x), np.kron(x, np.ones((1, 2, 2, 1), np.float32)))


def test_parameters_are_those_of_the_drawn_network(variables):
    def block(inputs, outputs):
        return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs

    expected = (
        block(4, 4) + block(4, 8) + block(8, 16) + block(16 + 8, 8) + block(8 + 4, 4) + 4 * 4 + 4
    )
    leaves = jax.tree.leaves(variables['params'])
    assert sum(leaf.size for leaf in leaves) == expected
    logits = jax.eval_shape(lambda v, x: TINY.apply(v, x, train=False)['logits'], variables,
                            jnp.zeros((2, 24, 40, 1)))  # fmt: skip
    assert logits.shape == (2, 24, 40, 1) and logits.dtype == jnp.float32


def test_a_shifted_image_has_shifted_logits(variables):
    size = 128  # the zeros beyond the border reach 40 pixels in
    apply = jax.jit(lambda x: TINY.apply(variables, x, train=False)['logits'])
    image = np.random.default_rng(2).random((1, size, size, 1)).astype(np.float32)
    step = TINY.multiple
    moved = apply(np.roll(image, (step, 2 * step), (1, 2)))
    expected = np.roll(apply(image), (step, 2 * step), (1, 2))
    inside = slice(60, size - 44)
    np.testing.assert_allclose(moved[:, inside, inside], expected[:, inside, inside], atol=1e-4)
    assert np.std(expected[:, inside, inside]) > 0.01


def test_one_and_four_devices_normalise_alike():
    network = UNet(width=4, depth=1, axis_name=parallel.AXIS)
    images = np.random.default_rng(3).random((8, 8, 8, 1)).astype(np.float32)
    fresh = network.init(jax.random.key(0), images, train=True)

    def step(variables, x):
        maps, updated = network.apply(variables, x, train=True, mutable=['batch_stats'])
        return maps['logits'], updated['batch_stats']

    one, four = (
        parallel.sharded(step, parallel.data_mesh(jax.devices()[:n]), (False, True), (True, False))(
            fresh, images
        )
        for n in (1, 4)
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_as_an_encoder_it_leaves_images_as_they_are(variables):
    """Of any size and depth of bits; the mean of its logits is its pooled feature."""
    encoder = build_unet(4, 2, 'float32')
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 200, (2, 24, 24, 1)).astype(dtype) for dtype in ('uint8', 'uint16')]
    pixels = [encoder.contract.images({'image': image}) for image in images]
    np.testing.assert_allclose(pixels[0], images[0] / 255, rtol=1e-6)
    np.testing.assert_allclose(pixels[1], images[1] / 65535, rtol=1e-6)
    features = encoder(variables['params'], variables['batch_stats'], pixels[0], train=False)
    expected = TINY.apply(variables, images[0] / np.float32(255), train=False)['logits']
    np.testing.assert_allclose(features.maps['logits'], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features.pooled, expected.mean((1, 2)), rtol=1e-4, atol=1e-6)
