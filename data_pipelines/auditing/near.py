"""Near copies: images of the same film, recompressed, cropped, mirrored, of another gamma or size.

Every look is described by its low cosine frequencies, and so are its parts (as a crop would show
them) and their mirror images. Subtracting the mean and whitening takes away what all films share.
Nearest neighbours are candidates; a candidate is near if its two looks can be laid over each
other (register.py) so that they agree in their details. Same person, other film: they do not.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from data_pipelines.auditing import register
from data_pipelines.auditing.looks import SIDE

FREQUENCIES = 13
NEIGHBOURS = 8  # candidates of each image
CANDIDATE = 0.25  # similarity of whitened descriptors from which a pair is looked at
NEAR = 0.89  # agreement of details from which a pair is near; docs/audit.md says why
SHRINKAGE = 0.1  # of the covariance, in units of its mean eigenvalue; more of few images
BLOCK = 1024  # looks compared at once
# Gaussian widths in pixels, of looks of SIDE / 2 and of SIDE: details lie between them.
COARSE, FINE = (0.7, 3.0), (0.5, 2.0)
WHOLE = (0.0, 1.0)
PARTS = ((0.0, 0.9), (0.05, 0.95), (0.1, 1.0))  # of a side that a crop may have left


@dataclass(frozen=True)
class Variant:
    """A part of a look, perhaps mirrored."""

    rows: tuple[float, float]
    columns: tuple[float, float]
    flip: bool

    @property
    def part(self) -> tuple[float, float, float, float]:
        """In the (mirrored) look: first and last row, first and last column."""
        left, right = self.columns
        return (*self.rows, *((1 - right, 1 - left) if self.flip else (left, right)))


QUICK = tuple(Variant(WHOLE, WHOLE, flip) for flip in (False, True))
ALL = QUICK + tuple(
    Variant(rows, columns, flip)
    for rows, columns, flip in itertools.product(PARTS, PARTS, (False, True))
)


@dataclass(frozen=True)
class NearPairs:
    """Images i [P] and j [P] and the agreement [P] of their details, NEAR to 1."""

    i: np.ndarray
    j: np.ndarray
    agreement: np.ndarray


def near_pairs(
    first: np.ndarray,
    second: np.ndarray | None = None,
    variants: tuple[Variant, ...] = ALL,
    one_way: bool = False,
) -> NearPairs:
    """Near copies between looks uint8 [N, S, S] and [M, S, S], or, without the second, among the
    first (i < j). A look without any detail has no copies.

    `one_way`: only the nearest of each of the first are looked at, for few first and many second.
    """
    other = first if second is None else second
    if not len(first) or not len(other):
        empty = np.zeros(0, np.int64)
        return NearPairs(empty, empty, np.zeros(0, np.float32))
    whiten = _Whitening(np.concatenate([first, other]) if second is not None else first)
    i, j = _candidates(first, other, whiten, variants, second is None)
    if second is not None and not one_way:
        back, forth = _candidates(other, first, whiten, variants, False)
        i, j = np.concatenate([i, forth]), np.concatenate([j, back])
    i, j = np.unique(np.stack([i, j]), axis=1)
    agreement = _verified(first, other, i, j, whiten, variants)
    if second is None:  # each pair was tried both ways
        low, high = np.minimum(i, j), np.maximum(i, j)
        order = np.lexsort((-agreement, high, low))
        i, j, agreement = low[order], high[order], agreement[order]
        kept = np.r_[True, (np.diff(i) != 0) | (np.diff(j) != 0)] if len(i) else []
        i, j, agreement = i[kept], j[kept], agreement[kept]
    near = agreement >= NEAR
    return NearPairs(i[near], j[near], agreement[near])


class _Whitening:
    """Descriptors of which those of unlike images do not correlate; fitted to looks."""

    def __init__(self, looks: np.ndarray):
        some = looks[:: max(1, len(looks) // 20000)]
        plain = _frequencies(some, QUICK[0])
        self._mean = plain.mean(0)
        values, vectors = np.linalg.eigh(np.cov((plain - self._mean).T, bias=True))
        shrinkage = SHRINKAGE + 0.5 * len(values) / len(some)
        values = np.maximum(values, 0) + shrinkage * max(values.mean(), 1e-9)
        self._matrix = (vectors / np.sqrt(values)).astype(np.float32)

    def describe(self, looks: np.ndarray, variant: Variant) -> np.ndarray:
        """float32 [N, D] of length 1."""
        return _unit((_frequencies(looks, variant) - self._mean) @ self._matrix)


def _frequencies(looks: np.ndarray, variant: Variant) -> np.ndarray:
    """Cosine coefficients of a part of each look, higher ones weighted up; length 1."""
    rows, columns = (_cosines(*edges) for edges in (variant.rows, variant.columns))
    if variant.flip:
        columns = columns * np.where(np.arange(FREQUENCIES) % 2, -1, 1)[:, None]
    k = np.arange(FREQUENCIES)
    radius = np.hypot(k[:, None], k)
    kept = (radius >= 2) & (radius <= FREQUENCIES)
    found = np.empty((len(looks), kept.sum()), np.float32)
    rows, columns = rows.astype(np.float32), columns.astype(np.float32).T
    for start in range(0, len(looks), BLOCK):
        here = looks[start : start + BLOCK].astype(np.float32)
        found[start : start + BLOCK] = (rows @ (here @ columns))[:, kept]
    return _unit(found * np.sqrt(radius[kept]).astype(np.float32))


def _cosines(start: float, end: float) -> np.ndarray:
    """[FREQUENCIES, SIDE]: the DCT of a part of a row, stretched to a whole one."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    at = np.clip((start + (end - start) * places) * SIDE - 0.5, 0, SIDE - 1)
    stretch = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIDE)))
    return np.cos(np.pi * np.outer(np.arange(FREQUENCIES), places)) @ stretch


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _candidates(
    queries: np.ndarray, base: np.ndarray, whiten: _Whitening, variants, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(queries, their nearest of the base): a part of the first looks like the whole second."""
    whole = whiten.describe(base, QUICK[0]).T.copy()
    most = min(NEIGHBOURS, whole.shape[1] - same)
    rows, columns = [], []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        best = np.full((len(block), whole.shape[1]), -1, np.float32)
        for variant in variants:
            np.maximum(best, whiten.describe(block, variant) @ whole, out=best)
        if same:
            best[np.arange(len(block)), start + np.arange(len(block))] = -1
        if most < 1:
            continue
        nearest = np.argpartition(best, -most, axis=1)[:, -most:]
        row, place = np.nonzero(np.take_along_axis(best, nearest, 1) >= CANDIDATE)
        rows.append(start + row)
        columns.append(nearest[row, place])
    none = [np.zeros(0, np.int64)]
    return np.concatenate(rows or none), np.concatenate(columns or none)


def _verified(first, second, i, j, whiten: _Whitening, variants) -> np.ndarray:
    """The agreement of each pair, -1 of those that do not agree even coarsely."""
    agreement = np.full(len(i), -1, np.float32)
    for start in range(0, len(i), 4 * BLOCK):
        here = slice(start, start + 4 * BLOCK)
        # Only the looks of these pairs: those of all would take half a gigabyte per 10,000.
        one, a = np.unique(i[here], return_inverse=True)
        two, b = np.unique(j[here], return_inverse=True)
        agreement[here] = _verified_few(first[one], second[two], a, b, whiten, variants)
    return agreement


def _verified_few(first, second, a, b, whiten: _Whitening, variants) -> np.ndarray:
    whole = whiten.describe(second, QUICK[0])
    similar = np.stack([
        np.einsum('pd,pd->p', whiten.describe(first, variant)[a], whole[b]) for variant in variants
    ])  # fmt: skip
    chosen = similar.argmax(0)
    flip = np.array([variant.flip for variant in variants])[chosen]
    part = np.array([variant.part for variant in variants], np.float32)[chosen]
    scales = [register.make_scale(looks, 2, *COARSE) for looks in (first, second)]
    coarse, part = register.agreement(*scales, a, b, flip, part, register.COARSE_STEPS)
    worth = np.flatnonzero(coarse >= register.WORTH_A_LOOK)
    agreement = np.full(len(a), -1, np.float32)
    if len(worth):
        scales = [register.make_scale(looks, 1, *FINE) for looks in (first, second)]
        agreement[worth], _ = register.agreement(
            *scales, a[worth], b[worth], flip[worth], part[worth], register.FINE_STEPS
        )
    return agreement
