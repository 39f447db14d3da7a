"""Models compared on the same test images: paired bootstrap and Holm's correction."""

from collections.abc import Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import Draws, figure
from cxr_jax.evaluation.cohort import Table, aligned
from cxr_jax.evaluation.measures.base import Measure, Resampled, resample

# The least p-value is 1 / 10,001, which stays below 0.05 in a family of 500 comparisons.
RESAMPLES = 10_000
P_VALUE = (
    'two-sided, p = (1 + number of resamples in which |d* - d| >= |d|) / (1 + resamples), '
    'd the observed difference, d* that of a resample'
)
_TIE = 1e-12  # rounding of a mean over names and seeds


def paired_difference(
    measure: Measure,
    first: Sequence[Table],
    second: Sequence[Table],
    names: Sequence[str],
    exclusive: bool,
    draws: Draws | None = None,
) -> dict:
    """A measure of level SET of `first` minus that of `second`, each a list of tables (one a seed).

    See difference. Raises UserError if the test images differ.
    """
    tables, cohort = aligned([*first, *second], names, exclusive)
    found = resample([measure], tables, cohort, draws or Draws(RESAMPLES))
    columns = np.arange(len(tables))
    return difference(found, measure, columns[: len(first)], columns[len(first) :])


def difference(
    found: Resampled,
    measure: Measure,
    first: Sequence[int],
    second: Sequence[int],
    k: int | None = None,
) -> dict:
    """Tables `first` of `found` minus tables `second`, by number, each averaged (of name k).

    The statistic is the difference of the means over seeds. Returns {'difference': figure (see
    bootstrap.py), 'p': float or None, 'images', 'patients'}. The p-value is that of the bootstrap
    distribution moved to a difference of zero (Efron and Tibshirani 1993, ch. 16): P_VALUE; it is
    1 for equal models and never 0. Resamples in which the measure is undefined do not count.
    Over patients and seeds, two lists of one length are drawn in pairs: tables at the same place
    are of the same seed.
    """
    first, second = np.asarray(first, int), np.asarray(second, int)
    sizes = {'images': len(found.cohort), 'patients': found.cohort.n_patients}
    if not (len(first) and len(second)):
        nothing = {'value': None, 'low': None, 'high': None, 'reason': 'no seed in common'}
        return {'difference': nothing, 'p': None, **sizes}
    values, samples = found.of(measure, k)
    draws, stream = found.draws, 1 if len(first) == len(second) else 2
    observed = values[first].mean() - values[second].mean()
    drawn = draws.over_seeds(samples[:, first]) - draws.over_seeds(samples[:, second], stream)
    reason = draws.restriction(len(first), len(second))
    result, p = figure(observed, drawn, found.people(measure, k), reason), None
    if result['low'] is not None:
        usable = drawn[np.isfinite(drawn)]
        as_far = np.abs(usable - observed) >= abs(observed) - _TIE
        p = float((1 + as_far.sum()) / (1 + len(usable)))
    return {'difference': result, 'p': p, **sizes}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1; none falls below a smaller one's, none
    exceeds 1. A p-value that is missing (None) counts in m as the largest, and stays None.
    """
    filled = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(filled, kind='stable')
    steps = filled[order] * np.arange(len(filled), 0, -1)
    adjusted = np.empty(len(filled))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [None if p is None else float(x) for p, x in zip(p_values, adjusted, strict=True)]
