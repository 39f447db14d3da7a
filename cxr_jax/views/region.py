"""Stored pixels -> values in [0, 1] of one region of the image."""

import jax.numpy as jnp

REGIONS = ('full', 'lungs_black', 'lungs_gray', 'background')


def to_unit_range(image):
    """uint8 or uint16 [...] -> float in [0, 1]."""
    return image.astype(float) / jnp.iinfo(image.dtype).max


def needs_masks(region: str) -> bool:
    """Whether the region is cut out with lung masks."""
    return region != 'full'


def select_region(image, lung_mask, region: str, gray: float):
    """Keeps a region of images [..., C] in [0, 1]; `lung_mask` [..., 1], 1 = lung, else None.

    `lungs_gray` fills the outside with `gray` (reference study: the mean of whole images);
    `background` blackens the lungs.
    """
    if region == 'full':
        return image
    inside = lung_mask > 0
    if region == 'background':
        return jnp.where(inside, 0.0, image)
    return jnp.where(inside, image, gray if region == 'lungs_gray' else 0.0)
