"""The soft organs put together: what air and tissue each beam crosses."""
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import label

from data_pipelines.synthetic.anatomy import (
    HALF_WIDTH,
    Anatomy,
    Plane,
    chord,
    draw_anatomy,
    draw_body,
    draw_gas,
    draw_lung,
    ellipse,
)
from data_pipelines.synthetic.cases import Case
from data_pipelines.synthetic.vessels import draw_vessels


@dataclass(frozen=True)
class Thorax:
    """Thickness maps [H, W] in cm and the geometry that lesions are placed in."""

    plane: Plane
    anatomy: Anatomy
    lungs: dict  # side -> Lung
    body: np.ndarray  # soft tissue if there were no air
    air: np.ndarray  # of lung, aerated tissue included
    gas: np.ndarray  # trachea and stomach
    vessels: np.ndarray  # of blood, inside of the lungs
    lung_field: np.ndarray  # bool: lung not hidden by heart, mediastinum, diaphragm

    @cached_property
    def aerated(self) -> np.ndarray:
        """0 outside of the lungs, 1 inside, soft between."""
        return np.minimum(self.air / 3, 1)

    def at(self, side: int, across: float, down: float) -> tuple[float, float]:
        """Point of a lung: across 0 (medial) to 1 (lateral), down 0 (apex) to 1 (dome)."""
        lung = self.lungs[side]
        y = 0.6 + down * (self.anatomy.dome[side] - 0.6)
        row = round(self.plane.pixel(0, y)[1])
        medial, lateral = float(lung.medial[row, 0]), float(lung.lateral[row, 0])
        return side * (medial + across * (lateral - medial)), y


def _largest_part(mask: np.ndarray) -> np.ndarray:
    parts, number = label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=2)[1:]) if number else mask


def draw_thorax(case: Case, plane: Plane) -> Thorax:
    """Everything but bones and lesions."""
    a = draw_anatomy(case)
    lungs = {side: draw_lung(plane, a, side) for side in (-1, 1)}
    air = np.hstack([lungs[-1].thickness, lungs[1].thickness]).astype(np.float32)
    field = (air > 0.6) & np.hstack([lungs[-1].above, lungs[1].above])
    bottom = max(a.dome.values()) + 6
    window = plane.window(-HALF_WIDTH / 2, HALF_WIDTH * 0.7, 2, bottom)
    part = plane.part(window)
    inside = np.maximum.reduce([ellipse(part, *shape) for shape in a.heart])
    air[window] = np.maximum(air[window] - a.heart_depth * chord(inside), 0)
    hidden = inside > 0.02
    for (x, y, *_), outward in zip(a.heart[:2], (1, -1), strict=True):
        # The slivers of lung between heart and diaphragm do not count as seen.
        hidden |= (part.y > y) & (outward * part.x < outward * x) & (outward * part.x > 0)
    field[window] &= ~hidden
    for side in (-1, 1):
        half = plane.half(side)
        field[half] = _largest_part(field[half])
    gas = draw_gas(plane, a, case.rng('study', 4))
    vessels = draw_vessels(plane, a, case.rng('patient', 6)) * np.minimum(air / 8, 1)
    return Thorax(plane, a, lungs, draw_body(plane, a), air, gas, vessels, field)
