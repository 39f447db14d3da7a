"""What a measure is, and its figures for one model that was trained from one or several seeds."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import Draws, Statistic, Statistics, bootstrap, figure, ratio
from cxr_jax.evaluation.cohort import Cohort, Table

SET, NAME = 'set', 'name'
PERCENT, DECIMAL = 'percent', 'decimal'


def no_chance(cohort: Cohort) -> None:
    """Of a measure for which guessing has no value of its own."""


@dataclasses.dataclass(frozen=True, eq=False)
class Measure:
    """A number that a model is judged by: one for all images, or one for each of K names.

    `statistic(cohort, table)` prepares a function of counts [b, P] (how often each patient is
    drawn) that gives the measures of a family by name, [b] or [b, K] each, NaN where undefined;
    what they share is computed once.
    """

    name: str
    title: str
    meaning: str  # one line for a reader of a report
    statistic: Callable[[Cohort, Table], Statistic]
    unit: str = PERCENT
    level: str = SET
    higher_is_better: bool = True
    # What guessing reaches: a number, or [K] numbers of a measure by name; None, NaN if unknown.
    chance: Callable[[Cohort], float | np.ndarray | None] = no_chance
    mean_of: 'Measure | None' = None  # the measure by name of which this is the mean
    interval: bool = True  # False: a resample's value is biased, so that percentiles mislead
    # Images that the measure is taken of, bool [N] or [N, K]; None: all, or those of the name.
    support: Callable[[Cohort, Table], np.ndarray] | None = None
    lacking: Callable[[Cohort, int | None], str] | None = None  # why it is undefined (of name k)

    def describe(self) -> dict:
        """What a report needs to show its figures."""
        keys = ('title', 'meaning', 'unit', 'higher_is_better')
        return {key: getattr(self, key) for key in keys}


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """Measures of S tables of the same images: of everybody, and of every resample."""

    tables: Sequence[Table]
    cohort: Cohort
    draws: Draws
    value: Statistics  # [S] or [S, K]
    samples: Statistics  # [B, S] or [B, S, K]

    def of(self, measure: Measure, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Value [S] and samples [B, S] of a measure (of name k)."""
        value, samples = self.value[measure.name], self.samples[measure.name]
        return (value, samples) if k is None else (value[:, k], samples[..., k])

    def people(self, measure: Measure, k: int | None = None) -> int:
        """Number of patients that the measure is taken of (in any table)."""
        cohort = self.cohort
        if measure.support is None:
            rows = np.ones(len(cohort), bool) if k is None else cohort.positive[:, k]
        else:
            rows = np.any([measure.support(cohort, table) for table in self.tables], axis=0)
            rows = rows if k is None else rows[:, k]
        return int(cohort.people(rows[:, None])[0])

    def figure(self, measure: Measure, k: int | None = None) -> dict:
        """The figure of the mean over the tables of a measure (of name k)."""
        value, samples = self.of(measure, k)
        reasons = [self._reason(measure, k)]
        if measure.interval:
            reasons.append(self.draws.restriction(samples.shape[1]))
        elif np.isfinite(value).all():
            reasons.append('noise raises it, more so in resamples: no interval')
        reason = '; '.join(filter(None, reasons))
        drawn = self.draws.over_seeds(samples)
        found = figure(value.mean(), drawn, self.people(measure, k), reason)
        return found if measure.interval else found | {'low': None, 'high': None}

    def _reason(self, measure: Measure, k: int | None) -> str:
        """Why the measure is undefined, or restricted to some of the names; '' if it is not."""
        if measure.mean_of is not None:
            absent = np.flatnonzero(np.isnan(self.value[measure.mean_of.name]).any(0))
            if not len(absent):
                return ''
            total, what = len(self.cohort.names), 'classes' if self.cohort.exclusive else 'findings'
            texts = [self.cohort.lacking(c) for c in absent]
            return f'mean over {total - len(absent)} of {total} {what}: ' + '; '.join(texts)
        if not np.isnan(self.of(measure, k)[0]).any():
            return ''
        if measure.lacking is not None:
            return measure.lacking(self.cohort, k)
        return 'no test image' if k is None else self.cohort.lacking(k)


def resample(
    measures: Sequence[Measure], tables: Sequence[Table], cohort: Cohort, draws: Draws
) -> Resampled:
    """Measures of every table on the same draws; tables: the rows of the cohort, as aligned."""
    families = list(dict.fromkeys(measure.statistic for measure in measures))
    prepared = [[family(cohort, table) for family in families] for table in tables]

    def everything(counts: np.ndarray) -> Statistics:
        each = [
            {name: x for one in of_table for name, x in one(counts).items()}
            for of_table in prepared
        ]
        return {name: np.stack([found[name] for found in each], axis=1) for name in each[0]}

    def wanted(counts: np.ndarray) -> Statistics:
        found = everything(counts)
        return {measure.name: found[measure.name] for measure in measures}

    value = {name: x[0] for name, x in everything(np.ones((1, cohort.n_patients))).items()}
    samples = bootstrap(wanted, cohort.n_patients, len(cohort), draws)
    return Resampled(tables, cohort, draws, value, samples)


def mean_over_names(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Mean [b] of values [b, K] over the names that are kept, bool [K]."""
    return ratio(values[:, kept].sum(1), kept.sum())
