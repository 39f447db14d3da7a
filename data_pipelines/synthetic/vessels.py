"""The vessels of the lungs, which end where the lungs do."""
import math

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data_pipelines.synthetic.anatomy import Anatomy, Plane


def _branches(
    rng: np.random.Generator, start: np.ndarray, angle: np.ndarray, length: np.ndarray,
    width: np.ndarray, children: list[int], steps: int = 6,
) -> list[tuple]:
    """Paths [n, steps + 1, 2] and widths [n] of each generation of branching vessels."""
    turns = np.cumsum(rng.normal(0, 0.13, (len(angle), steps)), axis=1)
    heading = angle[:, None] + turns
    moves = np.stack([np.cos(heading), np.sin(heading)], -1) * (length[:, None, None] / steps)
    path = np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, 1)], axis=1)
    if not children:
        return [(path, width)]
    shape = (len(angle), children[0])
    at = rng.integers(1, steps, shape)
    which = np.arange(len(angle))[:, None]
    bend = rng.uniform(0.35, 0.8, shape) * rng.choice([-1, 1], shape)
    thinner = width[:, None] * (0.75 - 0.06 * at)
    twigs = _branches(
        rng, path[which, at].reshape(-1, 2), (heading[which, at - 1] + bend).ravel(),
        (length[:, None] * rng.uniform(0.4, 0.65, shape)).ravel(), thinner.ravel(), children[1:],
    )  # fmt: skip
    return [*twigs, (path, width)]


def _draw_paths(
    draw: ImageDraw.ImageDraw, points: np.ndarray, widths: np.ndarray, step: float
) -> None:
    """Paths [n, m, 2] in pixels, brighter and thicker with their widths [n] and at their roots."""
    for begin, end, taper in ((2, None, 0.6), (0, 3, 1.0)):
        wide = widths * taper
        fills = np.minimum(wide * 255, 255).astype(int).tolist()
        thick = np.maximum(np.rint(wide / step), 1).astype(int).tolist()
        lines = points[:, begin:end].reshape(len(points), -1).tolist()
        for line, fill, pixels in zip(lines, fills, thick, strict=True):
            draw.line(line, fill, pixels)


def draw_vessels(plane: Plane, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Vessels of both lungs [H, W] as cm of blood (their number in depth is
    made up for by thickness), fanning out from the hila."""
    sheet = Image.new('L', plane.shape[::-1])
    draw = ImageDraw.Draw(sheet)
    fullness = rng.uniform(0.75, 1.25)
    for side in (-1, 1):
        hilum = np.array([side * (a.waist[side] + 1.3), 11.4 if side < 0 else 10.6])
        fan = np.linspace(-1.4, 1.4, 9) + rng.normal(0, 0.09, 9)
        # Wider towards the bases: gravity fills the lower vessels.
        width = fullness * rng.uniform(0.6, 1.0, 9) * (0.85 + 0.2 * fan)
        length = rng.uniform(10, 14, 9) * (0.75 + 0.2 * np.abs(fan))
        angle = fan if side > 0 else math.pi - fan
        start = hilum + rng.normal(0, 0.5, (9, 2)) * [0.5, 1.2]
        for paths, widths in _branches(rng, start, angle, length, width, [3, 3]):
            points = np.stack(plane.pixel(paths[..., 0], paths[..., 1]), -1)
            _draw_paths(draw, points, widths, plane.step)
        column, row = plane.pixel(hilum[0], hilum[1])
        wide, high = 0.75 * fullness / plane.step, 1.5 * fullness / plane.step
        draw.ellipse([column - wide, row - high, column + wide, row + high], fill=150)
    vessels = gaussian_filter(np.asarray(sheet, np.float32), 0.12 / plane.step, truncate=2.5)
    return vessels * np.float32(2.3 / 255)
