"""The four SIIM classes as changes of the thorax (Litmanovich et al., J Thorac Imaging 2020).

negative: nothing. typical: several rounded ground-glass opacities in both lungs, peripheral and
lower. indeterminate: one-sided, central or upper. atypical: lobar consolidation, effusion,
pneumothorax or nodules. Conspicuity varies from subtle to plain.
"""
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.synthetic.anatomy import chord, ellipse
from data_pipelines.synthetic.thorax import Thorax

VISIBLE = 0.3  # a box holds what reaches this part of a lesion's largest change


@dataclass(frozen=True)
class Lesion:
    """Change of the water path [h, w] in cm at `window` (two slices) of the drawing plane."""

    window: tuple[slice, slice]
    water: np.ndarray

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the plane where the lesion is visible."""
        size = np.abs(self.water)
        rows, columns = np.nonzero(size >= VISIBLE * size.max())
        return columns + self.window[1].start, rows + self.window[0].start


def mottle(rng: np.random.Generator, shape: tuple[int, int], grain: int) -> np.ndarray:
    """Smooth noise [H, W] of mean 0 and deviation about 1 with blobs of `grain` pixels."""
    coarse = rng.standard_normal((shape[0] // grain + 3, shape[1] // grain + 3), np.float32)
    sheet = Image.fromarray(coarse).resize(
        (coarse.shape[1] * grain, coarse.shape[0] * grain), Image.Resampling.BICUBIC
    )
    return 1.4 * np.asarray(sheet)[: shape[0], : shape[1]]


def _opacity(
    thorax: Thorax, rng: np.random.Generator, centre: tuple, radius: float, density: float,
    roughness: float,
) -> Lesion:
    """A round body of the given density (water = 1); rough ones have an irregular, fading rim."""
    x, y = centre
    reach = 1.5 * radius
    window = thorax.plane.window(x - reach, x + reach, y - reach, y + reach)
    squeeze = rng.uniform(0.8, 1.15)
    shape = (x, y, radius * squeeze, radius / squeeze, rng.uniform(0, math.pi))
    inside = ellipse(thorax.plane.part(window), *shape)
    path = chord(inside)
    if roughness:
        grain = [max(2, round(part * radius / thorax.plane.step)) for part in (0.6, 0.2)]
        ragged = mottle(rng, inside.shape, grain[0]) + 0.6 * mottle(rng, inside.shape, grain[1])
        path = np.clip(0.9 * inside + roughness * (1 - 0.5 * path) * ragged, 0, 1)
        path *= np.clip(inside + 1.2, 0, 1)
    # The body is not longer than the beam's path through the lung.
    room = np.minimum(thorax.air[window], 2 * radius * path)
    return Lesion(window, room * density)


def _typical(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    lesions = []
    for side in (-1, 1):
        for down in np.linspace(0.52, 0.92, rng.integers(2, 4)):
            centre = thorax.at(side, rng.uniform(0.62, 0.92), down + rng.normal(0, 0.05))
            lesions.append(_opacity(
                thorax, rng, centre, rng.uniform(1.7, 3.2), 0.5 * contrast, 0.25
            ))  # fmt: skip
    return lesions


def _indeterminate(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    side = int(rng.choice([-1, 1]))
    central = rng.random() < 0.5
    lesions = []
    for _ in range(rng.integers(1, 3)):
        if central:
            across, down = rng.uniform(0.2, 0.4), rng.uniform(0.42, 0.62)
        else:
            across, down = rng.uniform(0.3, 0.7), rng.uniform(0.14, 0.36)
        lesions.append(_opacity(
            thorax, rng, thorax.at(side, across, down), rng.uniform(2.8, 4.4), 0.58 * contrast,
            0.45,
        ))  # fmt: skip
    return lesions


def _whole(thorax: Thorax, share: np.ndarray) -> Lesion:
    """The share [H, W] of each beam's air that water replaces."""
    water = share * (1 - thorax.anatomy.lung_density) * thorax.air
    rows, columns = np.nonzero(np.abs(water) > 0.02)
    window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    return Lesion(window, water[window].astype(np.float32))


def _consolidation(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    """An upper lobe down to its sharp fissure, or a lower lobe up to a blurred border."""
    plane, side = thorax.plane, int(rng.choice([-1, 1]))
    reach = side * plane.x
    dome = thorax.anatomy.dome[side]
    slope = rng.uniform(-0.12, 0.12)
    if rng.random() < 0.5:
        fissure = rng.uniform(0.42, 0.55) * dome + slope * (reach - 8)
        share = np.clip((fissure - plane.y) / 0.3, 0, 1)
    else:
        border = rng.uniform(0.58, 0.72) * dome + slope * (reach - 8)
        share = np.clip((plane.y - border) / 3.0, 0, 1)
    grain = max(2, round(0.7 / plane.step))
    patchy = np.clip(0.85 + 0.05 * mottle(rng, thorax.body.shape, grain), 0.3, 1)
    return [_whole(thorax, share * patchy * (reach > 0) * 0.72 * contrast)]


def _effusion(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    """Fluid that hides the diaphragm, with a meniscus that climbs the chest wall."""
    plane, side = thorax.plane, int(rng.choice([-1, 1]))
    lung = thorax.lungs[side]
    reach = side * plane.x
    across = np.clip(reach / lung.lateral, 0, 1)
    height = rng.uniform(4.5, 11.0)
    level = thorax.anatomy.dome[side] + 3.0 - height
    surface = level + 1.5 - 4.5 * across**4
    share = np.clip((plane.y - surface) / 1.2, 0, 1) * (reach > 0) * min(0.9 * contrast, 1)
    return [_whole(thorax, share)]


def _pneumothorax(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    """Air without vessels between the chest wall and the thin pleura of a shrunken lung."""
    plane, side = thorax.plane, int(rng.choice([-1, 1]))
    lung = thorax.lungs[side]
    gap = rng.uniform(3.0, 5.5) * np.clip(1.15 - plane.y / 26, 0.1, 1)
    apical = rng.uniform(2.0, 4.5)
    shrunken = (lung.lateral - gap) * np.sqrt(1 - (1 - np.clip((plane.y - apical) / 14, 0, 1)) ** 4)
    beyond = side * plane.x - shrunken
    free = np.clip(beyond / 0.15, 0, 1) * (side * plane.x > 0)
    density = thorax.anatomy.lung_density
    pleura = np.exp(-((beyond / 0.12) ** 2)) * (side * plane.x > 0) * (plane.y > apical)
    dense = np.exp(-np.maximum(-beyond, 0) / 3) * (beyond < 0) * (side * plane.x > 0)
    share = -0.95 * density / (1 - density) * free + 0.05 * pleura + 0.1 * dense * contrast
    lesion = _whole(thorax, share)
    lesion.water[:] -= (free * thorax.vessels)[lesion.window]
    return [lesion]


def _nodules(thorax: Thorax, rng: np.random.Generator, contrast: float) -> list[Lesion]:
    lesions = []
    for _ in range(rng.integers(1, 3)):
        centre = thorax.at(int(rng.choice([-1, 1])), rng.uniform(0.5, 0.85), rng.uniform(0.2, 0.85))
        radius = rng.uniform(1.3, 2.5)
        lesions.append(_opacity(
            thorax, rng, centre, radius, min(0.95 * contrast, 1), 0.0
        ))  # fmt: skip
    return lesions


ATYPICAL = (_consolidation, _effusion, _pneumothorax, _nodules)


def draw_lesions(thorax: Thorax, label: int, rng: np.random.Generator) -> list[Lesion]:
    """Lesions of class `label` (0 negative ... 3 atypical); a pneumothorax also takes the
    vessels out of the free air."""
    contrast = float(np.clip(rng.lognormal(0.0, 0.22), 0.6, 1.6))
    if label == 0:
        return []
    if label == 1:
        return _typical(thorax, rng, contrast)
    if label == 2:
        return _indeterminate(thorax, rng, contrast)
    return ATYPICAL[rng.integers(len(ATYPICAL))](thorax, rng, contrast)
