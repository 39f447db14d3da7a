"""How much of a class activation map lies inside the lungs (AIL)."""

import jax
import numpy as np

Array = np.ndarray | jax.Array


def attention_inside_lungs(cam: Array, lung_mask: Array) -> Array:
    """AIL: the sum of the map inside the lungs over its sum in the whole image, in [0, 1].

    cam [..., H, W] already enlarged to the grid of lung_mask [..., H, W] (lung where > 0).
    Returns [...]: NumPy for NumPy input, else JAX (also under jit). NaN where no value of the
    map is positive. An image without a lung mask must be left out by the caller: its empty mask
    would read as 0. Raises ValueError if the grids differ.

    Negative values are cut, not shifted: shifting the minimum to zero would add a constant floor
    and pull AIL towards the lung-area fraction, which is the AIL of a uniform map.
    """
    if cam.shape[-2:] != lung_mask.shape[-2:]:
        raise ValueError(f'map {cam.shape} and lung mask {lung_mask.shape} differ in H, W')
    evidence = cam.clip(min=0)
    inside = (evidence * (lung_mask > 0)).sum((-2, -1))
    with np.errstate(invalid='ignore'):
        return inside / evidence.sum((-2, -1))


def lung_area_fraction(lung_mask: Array) -> Array:
    """Share of the image that is lung (> 0): [..., H, W] -> [...], in [0, 1]."""
    return (lung_mask > 0).mean((-2, -1))
