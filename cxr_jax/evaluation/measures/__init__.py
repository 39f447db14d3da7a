"""The measures, which of them judge which target, and the figures of one table of predictions."""

from collections.abc import Callable, Sequence

import numpy as np

from cxr_jax.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Draws
from cxr_jax.evaluation.cohort import Cohort, Table, labelled
from cxr_jax.evaluation.measures import attention, ranking
from cxr_jax.evaluation.measures import classification as classes
from cxr_jax.evaluation.measures.attention import LUNGS, Structure
from cxr_jax.evaluation.measures.base import NAME, SET, Measure, Resampled, resample
from cxr_jax.evaluation.measures.calibration import BRIER, ECE, calibration
from data_pipelines.errors import UserError

# Those of all images, the headline first, then those by name.
_EXCLUSIVE = (
    classes.BALANCED_ACCURACY, classes.MACRO_F1, ranking.MACRO_AUC, classes.ACCURACY, BRIER, ECE,
    classes.CLASS_ACCURACY, classes.CLASS_F1, ranking.AUC,
)  # fmt: skip
_FINDINGS = (
    ranking.MACRO_AUC, ranking.MACRO_PRECISION, BRIER, ECE,
    ranking.AUC, ranking.AVERAGE_PRECISION, ranking.SENSITIVITY,
)  # fmt: skip
_ATTENTION = tuple(m for level in attention.MEASURES.values() for part in level for m in part)
_NAMED = {measure.name: measure for measure in (*_EXCLUSIVE, *_FINDINGS, *_ATTENTION)}


def of(exclusive: bool, level: str | None = None) -> tuple[Measure, ...]:
    """The measures of a target (of one level, SET or NAME)."""
    found = _EXCLUSIVE if exclusive else _FINDINGS
    return tuple(measure for measure in found if level in (None, measure.level))


def headline(exclusive: bool) -> Measure:
    """The one number that a model of such a target is judged by."""
    return of(exclusive, SET)[0]


def named(name: str) -> Measure:
    """The measure of this name, which is what results hold; ValueError for any other."""
    if name not in _NAMED:
        raise ValueError(f'no measure {name!r}; there are {", ".join(_NAMED)}')
    return _NAMED[name]


def value(measure: Measure, table: Table, names: Sequence[str], exclusive: bool) -> float:
    """A measure of level SET of all labelled rows; NaN if undefined or a score is not finite."""
    table, cohort = labelled(table, names, exclusive)
    if not np.isfinite(table['scores']).all():
        return float('nan')
    found = measure.statistic(cohort, table)(np.ones((1, cohort.n_patients)))
    return float(found[measure.name][0])


def evaluate(
    table: Table,
    names: Sequence[str],
    exclusive: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Every figure of a table's labelled rows, ready for JSON.

    'figures' holds one figure a measure with what a report needs to show it, 'name_measures' the
    same of the measures by name, 'per_name' their figures. Resamples in which a name of the means
    vanishes (`dropped_resamples`) do not count for intervals that need it. Raises UserError for
    scores that are not finite, ValueError for a table that does not fit (see labelled).
    """
    table, cohort = labelled(table, names, exclusive)
    _check_finite(table['scores'])
    found = resample(of(exclusive), [table], cohort, Draws(resamples, seed))
    best = headline(exclusive)
    predictions = table['scores'].argmax(1)
    return {
        'names': list(names),
        'exclusive': exclusive,
        'images': len(cohort),
        'patients': cohort.n_patients,
        'confidence': CONFIDENCE,
        'resamples': resamples,
        'seed': seed,
        'headline': best.name,
        'figures': set_figures(found),
        'name_measures': {m.name: m.describe() for m in of(exclusive, NAME)},
        'per_name': name_rows(found),
        'confusion': classes.confusion_matrix(cohort.labels, predictions, len(names)).tolist()
        if exclusive
        else None,
        'calibration': calibration(cohort, table),
        'dropped_resamples': int(np.isnan(found.samples[best.name]).sum()),
        'notes': _notes(cohort),
    }


def set_figures(found: Resampled, figure: Callable[..., dict] = Resampled.figure) -> dict:
    """{name of a measure: {'title', ..., 'chance', 'figure'}} of the target's measures."""
    cohort = found.cohort
    return {
        measure.name: {
            **measure.describe(),
            'chance': measure.chance(cohort),
            'figure': figure(found, measure),
        }
        for measure in of(cohort.exclusive, SET)
    }


def name_rows(found: Resampled, figure: Callable[..., dict] = Resampled.figure) -> list[dict]:
    """{'name', 'images', 'known', 'patients', 'figures', 'chance'} of each class or finding."""
    cohort, measures = found.cohort, of(found.cohort.exclusive, NAME)
    people = cohort.people(cohort.positive)
    chances = {measure.name: measure.chance(cohort) for measure in measures}
    return [
        {
            'name': name,
            'images': int(cohort.positive[:, k].sum()),
            'known': int((cohort.positive | cohort.negative)[:, k].sum()),
            'patients': int(people[k]),
            'figures': {measure.name: figure(found, measure, k) for measure in measures},
            'chance': {
                key: None if x is None or np.isnan(x[k]) else float(x[k])
                for key, x in chances.items()
            },
        }
        for k, name in enumerate(cohort.names)
    ]


def attention_figures(
    table: Table,
    names: Sequence[str],
    exclusive: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
    structure: Structure = LUNGS,
) -> dict | None:
    """Mean AIL beside the mean lung-area fraction (the AIL of a uniform map), ready for JSON.

    The figures bear the names of the structure's columns, their difference 'excess'; by name, of
    the images of the class or with the finding. None if the table lacks the columns.
    """
    if not structure.in_table(table):
        return None
    table, cohort = labelled(table, names, exclusive)
    overall, by_name = attention.MEASURES[structure]
    found = resample((*overall, *by_name), [table], cohort, Draws(resamples, seed))
    used, has_structure = structure.used(table), np.isfinite(table[structure.area])
    keys = (structure.share, structure.area, 'excess')

    def row(measures: Sequence[Measure], images: np.ndarray, k: int | None = None) -> dict:
        figures = {key: found.figure(m, k) for key, m in zip(keys, measures, strict=True)}
        return {'images': int(images.sum()), **figures}

    return {
        **row(overall, used),
        structure.without: int((~has_structure).sum()),
        'without_activation': int((has_structure & ~used).sum()),
        'confidence': CONFIDENCE,
        'resamples': resamples,
        'seed': seed,
        'per_name': [
            {'name': name, **row(by_name, used & cohort.positive[:, k], k)}
            for k, name in enumerate(names)
        ],
    }


def _check_finite(scores: np.ndarray) -> None:
    broken = int((~np.isfinite(scores).all(1)).sum())
    if broken:
        raise UserError(
            f'The readout gives scores that are not finite for {broken} of {len(scores)} test '
            'images, so the training diverged. Lower the learning rate of the last stage and '
            'train it again.'
        )


def _notes(cohort: Cohort) -> list[str]:
    notes = []
    for k in np.flatnonzero(~cohort.both if not cohort.exclusive else ~cohort.positive.any(0)):
        text = cohort.lacking(k)
        notes.append(f'{text[0].upper()}{text[1:]}: it has no figures, and means leave it out.')
    people = cohort.people(cohort.positive)
    for k in np.flatnonzero(people == 1):
        notes.append(
            f'All test images of {cohort.what} {cohort.names[k]} are of one patient: its figures '
            'have no interval, and the intervals of the means are too narrow.'
        )
    return notes
