"""What a network still does of what it has learnt, once it has gone on to learn something else.

Values of one stage's own task, by what they were measured on: those of single images get intervals
over patients (see bootstrap.py), those of whole draws of views the range of the draws.
"""

from collections.abc import Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import Draws, bootstrap, figure, ratio

_FLOOR = 1e-12  # length of a row of zeros


def retrieval(views: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the pairs of views in which each image finds itself, [B], of V views [B, D] each.

    An image finds itself if the row of the second view that is nearest to its own of the first, by
    cosine, is its own, and no other is as near: a collapsed network finds none. Guessing finds 1 of
    B. All ordered pairs of different views count alike.
    """
    units = [np.asarray(rows, np.float64) for rows in views]
    units = [u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), _FLOOR) for u in units]
    found = []
    for a, first in enumerate(units):
        for second in units[:a] + units[a + 1 :]:
            similarity = first @ second.T
            own = np.diagonal(similarity).copy()
            np.fill_diagonal(similarity, -np.inf)
            found.append(own > similarity.max(1, initial=-np.inf))
    return np.mean(found, axis=0)


def over_patients(
    values: Sequence[np.ndarray], patients: np.ndarray, draws: Draws
) -> list[tuple[dict, dict]]:
    """(figure of the mean, figure of its change since the first) of each of n values [N] of images.

    `patients` [N]: of whom each image is. All are taken of the same resamples.
    """
    codes = np.unique(patients, return_inverse=True)[1].reshape(len(patients))
    people = int(codes.max()) + 1
    sums = np.stack([np.bincount(codes, own, people) for own in values], axis=1)
    images = np.bincount(codes, minlength=people).astype(float)

    def statistic(counts):
        return {'mean': ratio(counts @ sums, (counts @ images)[:, None])}

    whole = statistic(np.ones((1, people)))['mean'][0]
    samples = bootstrap(statistic, people, len(patients), draws)['mean']
    return [
        (
            figure(whole[k], samples[:, k], people),
            figure(whole[k] - whole[0], samples[:, k] - samples[:, 0], people),
        )
        for k in range(len(values))
    ]


def over_draws(values: Sequence[np.ndarray]) -> list[tuple[dict, dict]]:
    """(figure of the mean, figure of its change since the first) of n values [draws]: low and high
    are those of the draws, which are the same for all."""
    return [(_of_draws(own), _of_draws(own - values[0])) for own in values]


def _of_draws(values: np.ndarray) -> dict:
    if not np.isfinite(values).all():
        return {'value': None, 'low': None, 'high': None, 'reason': 'the values are not finite'}
    low, high = float(values.min()), float(values.max())
    return {'value': float(values.mean()), 'low': low, 'high': high, 'reason': ''}
