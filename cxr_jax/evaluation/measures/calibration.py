"""How far scores are from the frequencies that they state.

Of exclusive classes: the confidence, the highest probability, against how often the predicted
class is right (Guo et al. 2017). Of findings: every known label against its probability, pooled
and by finding. Bins hold equal numbers of the cohort's scores (Nixon et al. 2019), images of one
score always the same bin.
"""

import numpy as np

from cxr_jax.evaluation.bootstrap import Statistic, Statistics, ratio
from cxr_jax.evaluation.cohort import Cohort, Table
from cxr_jax.evaluation.measures.base import DECIMAL, Measure

BINS = 10


def _bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each of `scores` [E], in 0..BINS-1."""
    if not len(scores):
        return np.zeros(0, int)
    edges = np.quantile(scores, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, scores, 'right')


def _entries(cohort: Cohort, table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, whether they came true and the row of each, [E]."""
    scores = table['scores']
    if cohort.exclusive:
        rows = np.arange(len(cohort))
        return scores.max(1, initial=0), scores.argmax(1) == cohort.labels, rows
    known = cohort.positive | cohort.negative
    return scores[known], cohort.positive[known], np.nonzero(known)[0]


def _squares(cohort: Cohort, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the squared errors of each image, [N], and how many terms of the mean they are."""
    known = cohort.positive | cohort.negative
    squares = ((table['scores'] - cohort.positive) ** 2 * known).sum(1)
    return squares, np.ones(len(cohort)) if cohort.exclusive else known.sum(1)


def calibration_statistic(cohort: Cohort, table: Table) -> Statistic:
    """The family of the measures below."""
    scores, true, rows = _entries(cohort, table)
    gaps, terms = np.zeros((cohort.n_patients, BINS)), np.zeros(cohort.n_patients)
    np.add.at(gaps, (cohort.codes[rows], _bins(scores)), scores - true)
    np.add.at(terms, cohort.codes[rows], 1)
    errors, images = (
        np.bincount(cohort.codes, x, cohort.n_patients) for x in _squares(cohort, table)
    )

    def statistic(counts: np.ndarray) -> Statistics:
        return {
            BRIER.name: ratio(counts @ errors, counts @ images),
            ECE.name: ratio(np.abs(counts @ gaps).sum(1), counts @ terms),
        }

    return statistic


def reliability(scores: np.ndarray, true: np.ndarray) -> list[dict]:
    """The bins that are not empty, by rising score: entries, mean score and share that is true."""
    bins = _bins(scores)
    return [
        {
            'entries': int((bins == b).sum()),
            'predicted': float(scores[bins == b].mean()),
            'observed': float(true[bins == b].mean()),
        }
        for b in np.unique(bins)
    ]


def calibration(cohort: Cohort, table: Table) -> dict:
    """{'of', 'bins', 'reliability', 'per_name'}, ready for JSON.

    'of': what is held against its frequency, 'confidence' or 'probability'. 'reliability': see
    there. 'per_name', of findings alone: {'name', 'entries', 'brier', 'ece', 'reliability'} each,
    the numbers None without a known label.
    """
    scores, true, _ = _entries(cohort, table)
    per_name = []
    for k, name in enumerate(() if cohort.exclusive else cohort.names):
        known = cohort.positive[:, k] | cohort.negative[:, k]
        own, positive = table['scores'][known, k], cohort.positive[known, k]
        rows = reliability(own, positive)
        gaps = [row['entries'] * abs(row['predicted'] - row['observed']) for row in rows]
        brier = float(((own - positive) ** 2).mean()) if rows else None
        per_name.append({
            'name': name, 'entries': len(own), 'brier': brier,
            'ece': float(sum(gaps) / len(own)) if rows else None, 'reliability': rows,
        })  # fmt: skip
    return {
        'of': 'confidence' if cohort.exclusive else 'probability',
        'bins': BINS,
        'reliability': reliability(scores, true),
        'per_name': per_name,
    }


def _brier_of_the_prevalences(cohort: Cohort) -> float | None:
    """Of the constant probabilities that are right on average."""
    if not len(cohort):
        return None
    p = np.nan_to_num(cohort.prevalence)
    if cohort.exclusive:
        return float(1 - (p**2).sum())
    known = (cohort.positive | cohort.negative).sum(0)
    return float((known * p * (1 - p)).sum() / known.sum())


BRIER = Measure(
    'brier', 'Brier score', 'mean squared error of the probabilities, of exclusive classes summed '
    'over them (Brier 1950); chance is the prevalences',
    calibration_statistic, DECIMAL, higher_is_better=False, chance=_brier_of_the_prevalences,
)  # fmt: skip
# Noise within the bins raises it, in a resample twice: its percentiles would lie above the value.
ECE = Measure(
    'ece', 'expected calibration error', 'mean distance between probability and frequency, '
    f'{BINS} bins of equal mass',
    calibration_statistic, DECIMAL, higher_is_better=False, interval=False,
)  # fmt: skip
