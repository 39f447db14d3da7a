"""Lay one look over another: which part of the first the second shows, and how well they agree.

Gauss-Newton on the four edges of that part, by the gradients of the second look (the inverse
compositional way of Baker and Matthews 2004, doi 10.1023/B:VISI.0000011205.11775.fd): they and
the 4 x 4 matrix belong to an image, so a step costs two small matrix products a pair.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

BATCH = 128  # pairs at once: they fit the cache
COARSE_STEPS, FINE_STEPS = 8, 4
# What a coarse agreement must reach for a pair to be looked at finely.
WORTH_A_LOOK = 0.6
TILES = 8  # on a side
BELOW = 0.35  # of the tiles may agree less
SLACK = 0.2  # edges of the part lie at most this far from those of the whole look


@dataclass(frozen=True)
class Scale:
    """High-passed looks [N, n, n] and what registering on them needs."""

    detail: np.ndarray  # float32, mean 0 and deviation 1 of each look
    rows: np.ndarray  # gradient along the rows, in units of the whole look
    columns: np.ndarray
    inverse: np.ndarray  # [N, 4, 4]


def make_scale(looks: np.ndarray, shrink: int, low: float, high: float) -> Scale:
    """Looks [N, S, S] shrunk by an integer; details between the two Gaussian widths, in pixels."""
    count, side = len(looks), looks.shape[1] // shrink
    x = looks.reshape(count, side, shrink, side, shrink).mean((2, 4), dtype=np.float32)
    x = gaussian_filter(x, (0, low, low)) - gaussian_filter(x, (0, high, high))
    x = _standardised(x, np.ones((1, side, 1), np.float32), np.ones((1, 1, side), np.float32))
    rows, columns = (np.gradient(x, axis=axis) * np.float32(side) for axis in (1, 2))
    ramp = _ramp(side)
    matrix = np.empty((count, 4, 4), np.float32)
    matrix[:, :2, :2] = np.einsum('pyx,ay,by->pab', rows**2, ramp, ramp, optimize=True)
    matrix[:, 2:, 2:] = np.einsum('pyx,ax,bx->pab', columns**2, ramp, ramp, optimize=True)
    cross = np.einsum('pyx,ay,bx->pab', rows * columns, ramp, ramp, optimize=True)
    matrix[:, :2, 2:], matrix[:, 2:, :2] = cross, cross.transpose(0, 2, 1)
    size = np.trace(matrix, axis1=1, axis2=2)[:, None, None] / 4
    matrix += np.eye(4, dtype=np.float32) * (1e-3 * size + 1e-3)
    return Scale(x, rows, columns, np.linalg.inv(matrix))


def agreement(
    first: Scale, second: Scale, i: np.ndarray, j: np.ndarray, flip: np.ndarray, part: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(agreement [P] from -1 to 1, part [P, 4]) of the looks i [P] of `first`, mirrored where
    `flip` says so, and j [P] of `second`, after some steps.

    `part`: first and last row, first and last column of the first look that the second shows,
    each from 0 to 1.
    """
    found, parts = np.empty(len(i), np.float32), np.empty((len(i), 4), np.float32)
    for start in range(0, len(i), BATCH):
        here = slice(start, start + BATCH)
        moving, fixed = first.detail[i[here]], second.detail[j[here]]
        moving[flip[here]] = moving[flip[here], :, ::-1]
        gradients = second.rows[j[here]], second.columns[j[here]], second.inverse[j[here]]
        parts[here] = _registered(moving, fixed, gradients, part[here].astype(np.float32), steps)
        found[here] = _agreement(moving, fixed, parts[here])
    return found, parts


def _registered(moving, fixed, gradients, part, steps: int) -> np.ndarray:
    rows, columns, inverse = gradients
    ramp = _ramp(moving.shape[1]).T
    whole = np.array([0, 1, 0, 1], np.float32)
    for _ in range(steps):
        seen, y, x = _seen(moving, part)
        wrong = (seen - _standardised(fixed, y, x)) * (y * x)
        downhill = np.concatenate(
            [(rows * wrong).sum(2) @ ramp, (columns * wrong).sum(1) @ ramp], axis=1
        )
        move = np.clip(np.einsum('pab,pb->pa', inverse, downhill), -0.04, 0.04)
        extent = np.repeat(np.stack([part[:, 1] - part[:, 0], part[:, 3] - part[:, 2]], 1), 2, 1)
        part = np.clip(part - move * extent, whole - SLACK, whole + SLACK)
    return part


def _agreement(moving, fixed, part) -> np.ndarray:
    """Of the normalised cross-correlations of the 8 x 8 tiles that both looks show, the one that
    35 % stay below: what is burned in or cut off in a few places does not count, what differs
    here and there, as ribs do in another film, does."""
    seen, y, x = _seen(moving, part)
    both = y * x
    fixed = _standardised(fixed, y, x) * both
    seen = seen * both

    def tiles(values: np.ndarray) -> np.ndarray:
        pairs, side, _ = values.shape
        cut = values.reshape(pairs, TILES, side // TILES, TILES, side // TILES)
        return cut.sum((2, 4)).reshape(pairs, -1)

    found = tiles(seen * fixed) / np.sqrt(tiles(seen**2) * tiles(fixed**2) + 1e-6)
    shown = tiles(both) > 0.5 * (both.shape[1] / TILES) ** 2
    found = np.sort(np.where(shown, found, np.inf), axis=1)
    place = (BELOW * (shown.sum(1) - 1)).astype(int).clip(0)
    return np.where(shown.any(1), found[np.arange(len(found)), place], -1)


def _seen(moving: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a look, standardised, and which of its rows [P, n, 1] and columns [P, 1, n]
    exist."""
    by_row, y = _sampler(part[:, 0], part[:, 1], moving.shape[1])
    by_column, x = _sampler(part[:, 2], part[:, 3], moving.shape[1])
    y, x = y[:, :, None], x[:, None, :]
    return _standardised(by_row @ moving @ by_column.transpose(0, 2, 1), y, x), y, x


def _sampler(start: np.ndarray, end: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [P, n, n] of linear interpolation, and which positions lie inside, float32."""
    places = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side
    at = (start[:, None] + places * (end - start)[:, None]) * side - np.float32(0.5)
    inside = (at >= -0.5) & (at <= side - 0.5)
    at = np.clip(at, 0, side - 1)
    distance = np.abs(at[:, :, None] - np.arange(side, dtype=np.float32))
    return np.maximum(0, 1 - distance), inside.astype(np.float32)


def _standardised(x: np.ndarray, y_in: np.ndarray, x_in: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 of each [n, n] over the rows and columns that are in."""
    count = np.maximum(y_in.sum((1, 2)) * x_in.sum((1, 2)), 1)[:, None, None]
    x = x - (x_in @ (x.transpose(0, 2, 1) @ y_in) / count)
    squares = x_in @ ((x * x).transpose(0, 2, 1) @ y_in) / count
    return x / np.sqrt(squares + np.float32(1e-6))


def _ramp(side: int) -> np.ndarray:
    """How far each place [2, n] moves with the first and with the last edge."""
    places = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side
    return np.stack([1 - places, places])
