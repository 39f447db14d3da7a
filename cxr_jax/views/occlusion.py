"""Opacities painted over the lungs of one image [S, S, C] in [0, 1]; the lung mask stays whole."""

import jax
import jax.numpy as jnp

from cxr_jax.views.geometry import resize

CLOUDS = 8  # cells of the diffuse noise along each side of an image


def block_out(key, image, mask, probability: float, sides, value: float):
    """Sets a rectangle centred on a random lung pixel to `value`; no lung pixel, no rectangle.

    `sides`: range of its height and width as shares of the image's side. It may reach beyond the
    lung: were it cut out by the mask, its edge would give the outline away.
    """
    apply_key, place_key, side_key = jax.random.split(key, 3)
    height, width = image.shape[:2]
    total = jnp.cumsum(mask.ravel())
    drawn = jax.random.uniform(place_key) * total[-1]
    place = jnp.minimum(jnp.searchsorted(total, drawn, side='right'), mask.size - 1)
    half = jax.random.uniform(side_key, (2,), minval=sides[0], maxval=sides[1]) / 2
    rows = jnp.abs(jnp.arange(height) - place // width) <= half[0] * height
    columns = jnp.abs(jnp.arange(width) - place % width) <= half[1] * width
    inside = (rows[:, None] & columns)[..., None] & (total[-1] > 0)
    return jnp.where(inside & jax.random.bernoulli(apply_key, probability), value, image)


def diffuse_noise(key, image, mask, probability: float, low: float, high: float):
    """Adds smooth noise, uniform in [low, high) at its knots, to the lungs; clipped to [0, 1]."""
    apply_key, noise_key = jax.random.split(key)
    knots = jax.random.uniform(noise_key, (CLOUDS, CLOUDS, 1), minval=low, maxval=high)
    painted = jnp.clip(image + mask * resize(knots, image.shape[0]), 0.0, 1.0)
    return jnp.where(jax.random.bernoulli(apply_key, probability), painted, image)
