"""Measures of how well scores rank images with a finding, or of a class, above those without.

All are exact under whole-number weights, which say how often an image counts, and under ties.
Images whose label of a name is not known do not count for that name.
"""

import dataclasses

import numpy as np

from cxr_jax.evaluation.bootstrap import Statistic, Statistics, ratio
from cxr_jax.evaluation.cohort import Cohort, Table
from cxr_jax.evaluation.measures.base import DECIMAL, NAME, Measure, mean_over_names


@dataclasses.dataclass(frozen=True)
class Ranking:
    """p positive and n negative scores in ascending order, and where each lies among the others."""

    positives: np.ndarray  # [p] rows of `scores`
    negatives: np.ndarray  # [n]
    below: np.ndarray  # [p] number of negatives with a lower score
    not_above: np.ndarray  # [p] number of negatives with a lower or the same score
    ties: np.ndarray  # [p] number of positives with a lower score

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> 'Ranking':
        """scores [N]; positive, negative: bool [N]."""
        positives, negatives = (
            rows[np.argsort(scores[rows], kind='stable')]
            for rows in (np.flatnonzero(positive), np.flatnonzero(negative))
        )
        own, other = scores[positives], scores[negatives]
        return cls(
            positives, negatives,
            np.searchsorted(other, own, 'left'), np.searchsorted(other, own, 'right'),
            np.searchsorted(own, own, 'left'),
        )  # fmt: skip

    def figures(self, own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, ...]:
        """AUC, average precision, sensitivity at 90 % specificity, [b] each; NaN if undefined.

        own [b, p], other [b, n]: weights of the positives and the negatives.
        """
        lower_positives, lower_negatives = _running(own), _running(other)
        below, all_negatives = lower_negatives[:, self.below], lower_negatives[:, -1:]
        weight = own.sum(1)
        wins = (own * (below + lower_negatives[:, self.not_above])).sum(1) / 2
        # Of the images with at least the score of each positive.
        true = lower_positives[:, -1:] - lower_positives[:, self.ties]
        precision = ratio(true, true + all_negatives - below)
        # Weights are whole numbers, 0.9 is not.
        specific = 10 * below >= 9 * all_negatives
        defined = (weight > 0) & (all_negatives[:, 0] > 0)
        # A positive that is not drawn may have no image at or above its score.
        precise = (own * np.where(own > 0, precision, 0)).sum(1)
        return tuple(
            np.where(defined, x, np.nan)
            for x in (
                ratio(wins, weight * all_negatives[:, 0]),
                ratio(precise, weight),
                ratio((own * specific).sum(1), weight),
            )
        )


def _running(weights: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ..., n of weights [b, n], [b, n + 1]."""
    total = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def rank_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > a negative's) + P(equal) / 2.

    scores [N], positive bool [N]; NaN where the positives or the negatives are missing.
    """
    ranking = Ranking.of(np.asarray(scores), positive, ~positive)
    weights = (np.ones((1, len(rows))) for rows in (ranking.positives, ranking.negatives))
    return float(ranking.figures(*weights)[0][0])


def ranking_statistic(cohort: Cohort, table: Table) -> Statistic:
    """The family of the measures below.

    Average precision is the sum over thresholds of precision times the rise in recall, without
    interpolation; images of one score share a threshold.
    """
    columns = zip(table['scores'].T, cohort.positive.T, cohort.negative.T, strict=True)
    rankings = [Ranking.of(*column) for column in columns]
    patients = [(cohort.codes[r.positives], cohort.codes[r.negatives]) for r in rankings]
    kept = cohort.both

    def statistic(counts: np.ndarray) -> Statistics:
        found = [
            ranking.figures(*(counts.take(codes, axis=1) for codes in both))
            for ranking, both in zip(rankings, patients, strict=True)
        ]
        auc, precision, sensitivity = (np.stack(x, axis=1) for x in zip(*found, strict=True))
        return {
            AUC.name: auc,
            AVERAGE_PRECISION.name: precision,
            SENSITIVITY.name: sensitivity,
            MACRO_AUC.name: mean_over_names(auc, kept),
            MACRO_PRECISION.name: mean_over_names(precision, kept),
        }

    return statistic


def _half(cohort: Cohort) -> float | None:
    return 0.5 if cohort.both.any() else None


def _prevalence(cohort: Cohort) -> np.ndarray:
    return np.where(cohort.both, cohort.prevalence, np.nan)


def _mean_prevalence(cohort: Cohort) -> float | None:
    return float(cohort.prevalence[cohort.both].mean()) if cohort.both.any() else None


AUC = Measure(
    'auc', 'AUC', 'area under the ROC curve: share of the pairs of a positive and a negative image '
    'in which the positive has the higher score',
    ranking_statistic, DECIMAL, NAME, chance=lambda cohort: np.where(cohort.both, 0.5, np.nan),
)  # fmt: skip
AVERAGE_PRECISION = Measure(
    'average_precision', 'average precision', 'area under the curve of precision over recall; '
    'chance is the prevalence',
    ranking_statistic, DECIMAL, NAME, chance=_prevalence,
)  # fmt: skip
SENSITIVITY = Measure(
    'sensitivity_at_90', 'sensitivity at 90 % specificity', 'share of the positive images with a '
    'score above those of at least 90 % of the negative ones',
    ranking_statistic, level=NAME, chance=lambda cohort: np.where(cohort.both, 0.1, np.nan),
)  # fmt: skip
MACRO_AUC = Measure(
    'macro_auc', 'macro AUC', 'mean of the AUC, each name against the rest',
    ranking_statistic, DECIMAL, chance=_half, mean_of=AUC,
)  # fmt: skip
MACRO_PRECISION = Measure(
    'macro_average_precision', 'macro average precision', 'mean of the average precision',
    ranking_statistic, DECIMAL, chance=_mean_prevalence, mean_of=AVERAGE_PRECISION,
)  # fmt: skip
