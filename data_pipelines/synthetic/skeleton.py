"""Bones as thickness maps of compact bone."""
import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data_pipelines.synthetic.anatomy import HALF_WIDTH, TOP, chord, tube
from data_pipelines.synthetic.thorax import Thorax

RIBS = 11


def _shell(t: np.ndarray, hollow: float = 0.5) -> np.ndarray:
    """Bone along a beam that meets a rod at the distance t of its radii: a thin cortex, which
    is brightest at the edges, around spongy bone."""
    square = t * t
    return chord(1 - square) - hollow * chord(1 - square * 1.6)


def _ribs(thorax: Thorax, side: int, jitter: np.ndarray) -> np.ndarray:
    """All ribs of one half at once: each arc is a level set of `index`, whose fraction is the
    place across the rib."""
    a, lung = thorax.anatomy, thorax.lungs[side]
    rows, columns = thorax.plane.half(side)
    y = thorax.plane.y
    r = np.abs(thorax.plane.x[:, columns]) / (lung.lateral + 0.35).astype(np.float32)
    r2 = r * r
    edge = chord(1 - r2)
    # A rib runs around the cage, so the beam meets more of it near the edge.
    oblique = np.minimum(1 / np.maximum(edge, 0.45), 1.9) * (r < 1)
    slant = 0.35 + 0.65 * np.clip(y / 20, 0, 1.2)
    behind = slant * (a.rib_drop * r2 * (0.55 + 0.45 * r2)) - 0.5
    ahead = slant * a.rib_drop + 0.8 * a.rib_drop * edge * (1 + 0.3 * edge)
    total = np.zeros(r.shape, np.float32)
    for drop, begin, weight, radius in ((behind, 0.12, 1.3, 0.6), (ahead, 0.45, 0.65, 0.66)):
        index = (y - drop) * (1 / a.rib_pitch) + a.rib_phase
        number = np.floor(index)
        which = np.clip(number, -1, RIBS).astype(np.int8) + 1
        shift = np.take(jitter, which)
        present = (number >= 0) & (number < RIBS)
        t = (index - number - 0.5 + shift) * (a.rib_pitch / radius)
        extent = np.clip((r - begin) / 0.05, 0, 1) * oblique * present
        total += (weight * radius) * _shell(t, 0.6) * extent
    # The exposure hardly shows bone through the abdomen.
    return total * np.clip(1.2 - (y - a.dome[side]) / 8, 0.4, 1)


def _spine(thorax: Thorax) -> tuple[tuple, np.ndarray]:
    """Vertebral bodies, darker discs between them, pedicles and spinous processes."""
    a = thorax.anatomy
    window = thorax.plane.window(-4, 4)
    part = thorax.plane.part(window)
    level = np.clip(part.y, TOP, 30)
    u = np.abs(part.x - a.spine_bend * np.sin(part.y / 9)) / (1.5 + 0.018 * level)
    phase = part.y / (2.1 + 0.03 * level) + a.rib_phase
    place = phase - np.floor(phase) - 0.5
    body = 0.85 + 0.15 * np.tanh((0.4 - np.abs(place)) * 25)
    column = chord(1 - u * u) * body
    pedicle = np.exp(-(((u - 0.6) / 0.17) ** 2)) * np.exp(-(((place + 0.12) / 0.16) ** 2))
    process = np.exp(-((u / 0.14) ** 2)) * np.exp(-(((place - 0.25) / 0.2) ** 2))
    return window, 0.9 * column + 0.3 * pedicle + 0.4 * process


def _clavicle_and_arm(thorax: Thorax, side: int) -> tuple[tuple, np.ndarray]:
    plane, a = thorax.plane, thorax.anatomy
    rows, columns = plane.half(side)
    window = plane.window(*sorted((0.0, side * HALF_WIDTH)), TOP, 9)[0], columns
    part = plane.part(window)
    reach = np.abs(part.x)
    along = np.clip((reach - 1.3) / 15, 0, 1)
    bow = a.clavicle[0] - 15 * a.clavicle[1] * along + 0.8 * np.sin(along * 5.2)
    thick = 0.65 + 0.3 * (1 - along) ** 3
    ends = np.clip((reach - 1.3) / 0.4, 0, 1) * (reach < 16.5)
    bone = 1.9 * thick * ends * _shell((part.y - bow) / thick)
    head = (side * (max(a.half_width.values()) + a.wall + 0.9), 2.2)
    bone = np.maximum(bone, 1.5 * _shell(np.sqrt(1 - tube(part, head, head, 2.4)), 0.45))
    return window, bone


def _shoulder_blades(thorax: Thorax) -> np.ndarray:
    plane, a = thorax.plane, thorax.anatomy
    plate = Image.new('L', plane.shape[::-1])
    draw = ImageDraw.Draw(plate)
    wall = max(a.half_width.values()) + a.wall
    x = wall - 3.2
    for side in (-1, 1):
        corners = [(x + 2.6, 0.6), (x - 0.6, 3.2), (x - 1.2, 8.0), (x + 0.3, 13.6), (x + 3, 4.4)]
        points = [plane.pixel(side * px, py) for px, py in corners]
        draw.polygon(points, fill=90)
        draw.line([*points, points[0]], fill=200, width=max(1, round(0.35 / plane.step)))
        shaft = [(wall + 0.9, 2.5), (wall + 3.2 + a.arm_spread, 34.0)]
        bone = [plane.pixel(side * px, py) for px, py in shaft]
        draw.line(bone, fill=255, width=max(1, round(2.1 / plane.step)))
        draw.line(bone, fill=150, width=max(1, round(1.2 / plane.step)))
    return gaussian_filter(np.asarray(plate, np.float32), 0.2 / plane.step, truncate=2.5)


def draw_bones(thorax: Thorax, rng: np.random.Generator) -> np.ndarray:
    """Compact bone [H, W] in cm."""
    total = _shoulder_blades(thorax) * (0.75 / 255)
    for side in (-1, 1):
        jitter = rng.normal(0, 0.04, RIBS + 2).astype(np.float32)
        total[thorax.plane.half(side)] += _ribs(thorax, side, jitter)
        window, bone = _clavicle_and_arm(thorax, side)
        total[window] += bone
    window, bone = _spine(thorax)
    total[window] += bone
    return total * np.float32(thorax.anatomy.rib_bone)
