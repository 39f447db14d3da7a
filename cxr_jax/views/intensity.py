"""Intensity transforms of one image [S, S, C] with values in [0, 1]."""

import jax
import jax.numpy as jnp
from jax.lax import Precision

from cxr_jax.views.geometry import of_each_channel


def random_brightness_contrast(key, image, brightness: float, contrast: float):
    """Brightness factor U(1 ± brightness), then contrast factor U(1 ± contrast) about the mean.

    torchvision's ColorJitter for grey images (clipped to [0, 1] after each step), in fixed order.
    All channels share both factors and the mean.
    """
    brightness_key, contrast_key = jax.random.split(key)
    factor = 1 + brightness * jax.random.uniform(brightness_key, minval=-1.0)
    image = jnp.clip(image * factor, 0.0, 1.0)
    factor = 1 + contrast * jax.random.uniform(contrast_key, minval=-1.0)
    return jnp.clip(image.mean() + (image - image.mean()) * factor, 0.0, 1.0)


def gaussian_blur(image, sigma):
    """Gaussian of standard deviation `sigma` pixels; the weights at the border are renormalised.

    A sigma of 0 leaves the image as it is.
    """

    def blur_matrix(length):
        distance = jnp.arange(length)[:, None] - jnp.arange(length)
        weights = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, 1e-3)))
        return weights / weights.sum(1, keepdims=True)

    rows, columns = blur_matrix(image.shape[0]), blur_matrix(image.shape[1])

    def blurred(pixels):
        pixels = jnp.matmul(rows, pixels, precision=Precision.HIGHEST)
        return jnp.matmul(pixels, columns.T, precision=Precision.HIGHEST)

    return of_each_channel(blurred, image)


def solarize(image):
    """Values of 0.5 and more inverted, x -> 1 - x (Pillow's ImageOps.solarize at its threshold)."""
    return jnp.where(image < 0.5, image, 1.0 - image)
