"""How well predicted lung masks cover the true ones: Dice and IoU with patient intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Draws,
    Statistics,
    bootstrap,
    figure,
    ratio,
)


def dice_and_iou(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """2 |P and T| / (|P| + |T|) and |P and T| / |P or T| of two masks; NaN if both are empty."""
    predicted, true = np.asarray(predicted) > 0, np.asarray(true) > 0
    both, either = (predicted & true).sum(), (predicted | true).sum()
    return float(ratio(2 * both, both + either)), float(ratio(both, either))


def mean_figures(
    values: Mapping[str, np.ndarray],
    patients: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """The mean over images of each of `values` [N] as a figure (bootstrap.py), for JSON."""
    names, codes = np.unique(np.asarray(patients, str), return_inverse=True)
    images = np.bincount(codes, minlength=len(names)).astype(float)
    sums = {name: np.bincount(codes, x, len(names)) for name, x in values.items()}

    def statistic(counts: np.ndarray) -> Statistics:
        return {name: ratio(counts @ total, counts @ images) for name, total in sums.items()}

    samples = bootstrap(statistic, len(names), len(codes), Draws(resamples, seed))
    return {
        'images': len(codes),
        'patients': len(names),
        'confidence': CONFIDENCE,
        'resamples': resamples,
        'seed': seed,
        **{
            name: figure(float(np.mean(x)), samples[name], len(names)) for name, x in values.items()
        },
    }
