"""The patient's anatomy as thickness maps in the plane of the detector.

Lengths are centimetres. x runs to the patient's left (the image's right) from the midline, y runs
down from the level of the lung apices. A thickness map holds the path length of the beam.
"""
import math
from dataclasses import dataclass

import numpy as np

from data_pipelines.synthetic.cases import Case

HALF_WIDTH, TOP, BOTTOM = 22.0, -10.0, 35.5  # of the drawing plane
FINEST_STEP = 0.16


@dataclass(frozen=True)
class Plane:
    """The drawing plane or a window of it: x [1, W], y [H, 1] float32 and their spacing."""

    x: np.ndarray
    y: np.ndarray
    step: float

    @classmethod
    def with_step(cls, step: float) -> 'Plane':
        columns = round(HALF_WIDTH / step)  # even in number: the midline runs between two
        x = (np.arange(-columns, columns, dtype=np.float32) + 0.5) * step
        y = np.arange(TOP, BOTTOM, step, dtype=np.float32)
        return cls(x[None, :], y[:, None], step)

    @property
    def shape(self) -> tuple[int, int]:
        return self.y.shape[0], self.x.shape[1]

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a point."""
        return (x - float(self.x[0, 0])) / self.step, (y - TOP) / self.step

    def window(self, x0: float, x1: float, y0: float = TOP, y1: float = BOTTOM) -> tuple:
        """The rows and columns between these limits, as a pair of slices."""
        (left, top), (right, bottom) = self.pixel(x0, y0), self.pixel(x1, y1)
        height, width = self.shape
        rows = slice(max(math.ceil(top), 0), min(math.floor(bottom) + 1, height))
        columns = slice(max(math.ceil(left), 0), min(math.floor(right) + 1, width))
        return rows, columns

    def half(self, side: int) -> tuple:
        """The patient's right (-1) or left (1) half."""
        return self.window(-HALF_WIDTH, 0) if side < 0 else self.window(0, HALF_WIDTH)

    def part(self, window: tuple) -> 'Plane':
        return Plane(self.x[:, window[1]], self.y[window[0]], self.step)


@dataclass(frozen=True)
class Anatomy:
    """One patient's measures, in cm unless said otherwise."""

    half_width: dict  # side -> inner half width of the rib cage
    dome: dict  # side -> y of the top of the diaphragm
    dome_drop: float
    apex: float  # |x| of the lung apices
    depth: float  # front to back, soft tissue
    wall: float  # chest wall at the side
    lung_density: float  # of aerated lung, relative to water
    heart: list[tuple]  # ellipses x, y, a, b, tilt
    heart_depth: float
    knob: float  # bulge of the aortic arch
    waist: dict  # side -> half width of the mediastinum
    waves: dict  # side -> phases of its irregular border
    breast: float  # added thickness
    breast_y: float
    rib_pitch: float
    rib_phase: float  # parts of the pitch
    rib_drop: float
    rib_bone: float  # relative to a young adult's
    clavicle: tuple[float, float]  # y of its medial end, slope
    spine_bend: float
    arm_spread: float
    gas: bool  # in the stomach


def draw_anatomy(case: Case) -> Anatomy:
    """Measures of the patient (the same in all studies), in the position of this study."""
    rng = case.rng('patient', 3)
    woman, ageing = case.sex == 'F', case.age - 50
    stature = rng.normal(0.95 if woman else 1.03, 0.04)
    girth = stature * rng.normal(1.0, 0.07) + 0.0008 * ageing
    dome = rng.normal(20.8, 1.4) * stature
    size = rng.normal(1.0, 0.07) * stature + 0.0015 * ageing
    width = rng.normal(13.4, 0.5) * stature
    asymmetry = abs(rng.normal(0.45, 0.25))
    shift = rng.normal(0.0, 0.3)
    tilt = rng.uniform(0.55, 0.85)
    lift, spread = rng.uniform(1.2, 2.8), rng.uniform(1.05, 1.16)
    if case.view == 'AP':  # supine: less air, and the heart farther from the detector
        dome -= lift
        size *= spread
    heart = [
        (3.6 * size + shift, dome - 3.5 * size, 6.4 * size, 4.5 * size, tilt),
        (-1.1 + shift, dome - 4.6 * size, 3.7 * size, 5.6 * size, 0.0),
        (1.0 + shift, dome - 9.0 * size, 3.0 * size, 4.6 * size, -0.35),  # outflow tract
    ]
    return Anatomy(
        half_width={-1: width + asymmetry / 2, 1: width - asymmetry / 2},
        dome={-1: dome, 1: dome + rng.normal(1.1, 0.5)},
        dome_drop=rng.uniform(3.5, 5.5),
        apex=rng.uniform(5.4, 6.4) * stature,
        depth=rng.normal(21.0, 1.8) * girth,
        wall=rng.uniform(2.2, 4.4) * girth**2,
        lung_density=min(max(rng.normal(0.26, 0.03), 0.2), 0.34),
        heart=heart,
        heart_depth=rng.uniform(9.5, 11.5) * size,
        knob=min(max(rng.normal(1.0, 0.25) + 0.012 * ageing, 0.4), 2.2),
        waist={-1: rng.uniform(2.4, 3.1), 1: rng.uniform(2.2, 2.9)},
        waves={-1: rng.uniform(0, 6.3, 3), 1: rng.uniform(0, 6.3, 3)},
        breast=rng.uniform(1.5, 5.0) if woman else 0.0,
        breast_y=rng.uniform(15.5, 20.5) * stature,
        rib_pitch=rng.normal(2.6, 0.12) * stature,
        rib_phase=rng.uniform(0, 1),
        rib_drop=rng.uniform(4.0, 6.5),
        rib_bone=rng.uniform(0.8, 1.2) * (1 - 0.004 * max(ageing, 0)),
        clavicle=(rng.uniform(3.8, 5.4), rng.normal(0.2 if case.view == 'PA' else 0.1, 0.05)),
        spine_bend=rng.normal(0.0, 0.3),
        arm_spread=rng.uniform(0.0, 3.0),
        gas=bool(rng.random() < 0.6),
    )


@dataclass(frozen=True)
class Lung:
    """One lung: borders of each row [H, 1] as |x|, and the path through it in its half [H, W/2]
    before heart and mediastinum take their part; `above` is True above the diaphragm."""

    lateral: np.ndarray
    medial: np.ndarray
    thickness: np.ndarray
    above: np.ndarray


def chord(inside: np.ndarray) -> np.ndarray:
    """Relative path through a round body from 1 - r^2."""
    return np.sqrt(np.maximum(inside, 0))


def ellipse(plane: Plane, x: float, y: float, a: float, b: float, tilt: float) -> np.ndarray:
    """1 - r^2 [H, W]: positive inside the ellipse, 1 in its centre."""
    c, s = math.cos(tilt), math.sin(tilt)
    dx, dy = plane.x - x, plane.y - y
    u, v = dx * (c / a) + dy * (s / a), dy * (c / b) - dx * (s / b)
    return 1 - u * u - v * v


def tube(plane: Plane, start: tuple, end: tuple, radius: float) -> np.ndarray:
    """1 - r^2 [H, W] around the segment from start to end; a point makes a disc."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(dx * dx + dy * dy, 1e-6)
    px, py = plane.x - start[0], plane.y - start[1]
    along = np.clip(px * (dx / length) + py * (dy / length), 0, 1)
    ex, ey = px - along * dx, py - along * dy
    return 1 - (ex * ex + ey * ey) / (radius * radius)


def draw_lung(plane: Plane, a: Anatomy, side: int) -> Lung:
    y = plane.y
    widening = 1 - np.clip(y / 18.0, 0, 1)
    lateral = a.apex + (a.half_width[side] - a.apex) * (1 - widening**2.6) ** 0.62
    lateral = lateral - 1.2 * np.clip((y - 20) / 16, 0, 1) ** 2
    waist = a.waist[side] + 0.6 * np.exp(-(((y - 2.0) / 3.5) ** 2))
    for phase, length in zip(a.waves[side], (1.1, 2.1, 4.0), strict=True):
        waist = waist + (0.06 + 0.05 * length) * np.sin(y / length + phase)
    if side > 0:
        waist = waist + a.knob * np.exp(-(((y - 6.3) / 1.7) ** 2))
        waist = waist + 0.6 * np.exp(-(((y - 10.0) / 1.6) ** 2))
    else:
        waist = waist + 0.5 * np.exp(-(((y - 8.5) / 3.0) ** 2))
    opening = 1 - np.clip(y / 4.5, 0, 1)
    medial = waist + (a.apex - waist) * (1 - np.sqrt(1 - opening**2))
    reach = np.abs(plane.x[:, plane.half(side)[1]])
    centre = 0.45 * a.half_width[side]
    away = (reach - centre) / (a.half_width[side] - centre)
    drop = np.where(away > 0, a.dome_drop * np.abs(away) ** 2.3, 1.3 * away**2)
    below = y - (a.dome[side] + drop)
    across = (reach - medial) / np.maximum(lateral - medial, 0.05)
    # Half an ellipse from the midline to the ribs; the mediastinum cuts it off steeply.
    profile = chord(1 - across * across) * np.clip(across * 12, 0, 1)
    apical = np.sqrt(1 - (1 - np.clip(y / 9.0, 0, 1)) ** 2)
    recess = 0.3 * np.clip(1 - below / 5, 0, 1) ** 2
    recess += (1 - recess) * np.clip(0.5 - below / (2 * plane.step), 0, 1)
    thickness = (0.74 * a.depth) * apical * profile * recess * (y > 0)
    return Lung(lateral, medial, thickness, below < 0)


def _outline(plane: Plane, a: Anatomy) -> np.ndarray:
    """Half width of neck, shoulders and trunk [H, 1]."""
    side = max(a.half_width.values()) + a.wall
    levels = [-8, -6, -4.5, -3, -1.5, 1, 5, 9, 14, 22, 33]
    widths = [6.0, 6.4, 7.6, 11, 15, 19, side + 3, side + 1.2, side, side - 0.3, side - 0.3]
    half = np.interp(plane.y[:, 0], levels, widths)
    kernel = np.hanning(2 * int(1.5 / plane.step) + 3)
    padded = np.pad(half, len(kernel) // 2, mode='edge')
    return np.convolve(padded, kernel / kernel.sum(), 'valid').astype(np.float32)[:, None]


def draw_body(plane: Plane, a: Anatomy) -> np.ndarray:
    """Soft tissue: neck, shoulders, trunk, arms, breasts."""
    side = max(a.half_width.values()) + a.wall
    depth = np.interp(plane.y, [-8, -3, 3, 12, 30], [0.6, 0.62, 0.78, 1.0, 1.06])
    square = (plane.x / _outline(plane, a)) ** 2
    body = (depth * a.depth).astype(np.float32) * np.sqrt(chord(1 - square * square))
    for sign in (-1, 1):
        inner, outer = sorted((sign * (side - 4), sign * HALF_WIDTH))
        arm = plane.window(inner, outer)
        shoulder, elbow = (sign * (side + 1.2), 2.0), (sign * (side + 3.2 + a.arm_spread), 34.0)
        rod = chord(tube(plane.part(arm), shoulder, elbow, 4.3))
        body[arm] = np.maximum(body[arm], 8.6 * rod)
        if a.breast:
            window = plane.half(sign)
            part = plane.part(window)
            lobe = ellipse(part, sign * 0.56 * side, a.breast_y, 0.40 * side, 5.2, 0)
            # Fuller towards its lower edge, where the fold makes a visible crescent.
            fold = np.clip(0.55 + (part.y - a.breast_y) / 9, 0.15, 1.1)
            body[window] += a.breast * chord(lobe) * fold
    return body


def draw_gas(plane: Plane, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Trachea, main bronchi and the bubble of the stomach."""
    gas = np.zeros(plane.shape, np.float32)
    window = plane.window(-5, 6, TOP, 14)
    part = plane.part(window)
    middle = 0.2 - 0.35 * np.exp(-(((part.y - 6) / 3) ** 2))  # the arch pushes it to the right
    airways = chord(1 - ((part.x - middle) / 0.95) ** 2) * (part.y < 8.8) * 2.3
    for end in ((-2.9, 12.0), (4.0, 12.0)):
        airways = np.maximum(airways, 1.3 * chord(tube(part, (0.1, 8.3), end, 0.65)))
    gas[window] = airways
    if a.gas:
        x, y = rng.uniform(5.5, 8.5), a.dome[1] + rng.uniform(2.2, 3.5)
        width, height = rng.uniform(2, 3.6), rng.uniform(0.9, 1.8)
        window = plane.window(x - 4, x + 4, y - 3, y + 3)
        bubble = ellipse(plane.part(window), x, y, width, height, -0.1)
        gas[window] += rng.uniform(2, 6) * chord(bubble)
    return gas
