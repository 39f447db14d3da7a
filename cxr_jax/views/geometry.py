"""Geometric transforms of one image [R, R, C]; vmapped over a batch by the train step.

Coordinates are continuous, in pixels: pixel i covers [i, i + 1), so its centre is i + 0.5.
"""

import jax
import jax.numpy as jnp
from jax.lax import Precision


def resample_matrix(start, length, size: int, source: int, flip=False):
    """Matrix [size, source] that resamples the interval [start, start + length) of a line.

    Triangle filter, widened when shrinking (antialiased) and renormalised where it meets the end of
    the line, so constants stay constant up to the border (as Pillow's BILINEAR with a box).
    """
    index = jnp.arange(size)
    index = jnp.where(flip, size - 1 - index, index)
    scale = length / size
    centre = start + (index + 0.5) * scale
    support = jnp.maximum(scale, 1.0)
    distance = jnp.abs(jnp.arange(source) + 0.5 - centre[:, None]) / support
    weights = jnp.maximum(1.0 - distance, 0.0)
    return weights / weights.sum(1, keepdims=True)


def of_each_channel(transform, image):
    """`transform` [H, W] -> [h, w] of every channel of an image [H, W, C]: [h, w, C]."""
    channels = [transform(image[..., k])[..., None] for k in range(image.shape[-1])]
    return jnp.concatenate(channels, axis=-1)


def crop_resize(image, top, left, height, width, size: int, flip=False):
    """The given rectangle of an image [H, W, C], resized to [size, size, C], mirrored if `flip`."""
    rows = resample_matrix(top, height, size, image.shape[0])
    columns = resample_matrix(left, width, size, image.shape[1], flip)

    def resized(pixels):
        pixels = jnp.matmul(rows, pixels, precision=Precision.HIGHEST)
        return jnp.matmul(pixels, columns.T, precision=Precision.HIGHEST)

    return of_each_channel(resized, image)


def resize(image, size: int):
    """The whole image [H, W, C] resized to [size, size, C]."""
    return crop_resize(image, 0.0, 0.0, image.shape[0], image.shape[1], size)


def resize_mask(mask, size: int):
    """The whole mask [H, W, 1] to [size, size, 1], nearest neighbour: values are kept."""
    rows, columns = ((2 * jnp.arange(size) + 1) * n // (2 * size) for n in mask.shape[:2])
    return mask[rows][:, columns]


def random_resized_crop(key, image, size: int, scale, flip_probability: float):
    """A random rectangle of the image, `scale` = range of its area as a share of the image's.

    Aspect ratio log-uniform in [3/4, 4/3] as torchvision's RandomResizedCrop; a side that would
    leave the image is shortened to it, where torchvision draws again.
    """
    area_key, ratio_key, place_key, flip_key = jax.random.split(key, 4)
    extent = jnp.asarray(image.shape[:2], jnp.float32)
    area = jax.random.uniform(area_key, minval=scale[0], maxval=scale[1]) * extent.prod()
    bound = jnp.log(4 / 3)
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=-bound, maxval=bound))
    side = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), extent)
    corner = jax.random.uniform(place_key, (2,)) * (extent - side)
    flip = jax.random.bernoulli(flip_key, flip_probability)
    return crop_resize(image, corner[0], corner[1], side[0], side[1], size, flip)


def rotate(image, radians):
    """Rotated counter-clockwise about the centre, bilinear; black (0) comes in from outside."""
    height, width = image.shape[:2]
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij')
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    rows = cosine * y + sine * x + (height - 1) / 2
    columns = -sine * y + cosine * x + (width - 1) / 2

    def turned(pixels):
        return jax.scipy.ndimage.map_coordinates(
            pixels, [rows, columns], order=1, mode='constant', cval=0.0
        )

    return of_each_channel(turned, image)


def four_rotations(image):
    """[S, S, C] -> [4, S, S, C]: 0, 90, 180, 270 degrees counter-clockwise, exact."""
    return jnp.stack([jnp.rot90(image, turns) for turns in range(4)])
