"""Which levels of one axis differ: paired tests on the same images, Holm's correction."""

from collections.abc import Iterable, Sequence

import numpy as np
from ml_collections import ConfigDict

from cxr_jax.evaluation.bootstrap import CONFIDENCE, PATIENTS, PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.cohort import aligned
from cxr_jax.evaluation.difference import P_VALUE, difference, holm
from cxr_jax.evaluation.measures import headline
from cxr_jax.evaluation.measures.base import Measure, Resampled, resample
from cxr_jax.study.grid import CURRICULUM, IMAGENET, SCRATCH, Axis
from cxr_jax.study.models import Model
from data_pipelines.errors import UserError

BEST_SINGLE = 'best single task'
REFERENCES = (SCRATCH, IMAGENET, BEST_SINGLE)
_ANOTHER_AXIS = (
    'Or compare the levels of another axis (--config.compare.axis=NAME; empty for no comparison).'
)


def check(compare: ConfigDict, axes: Sequence[Axis]) -> None:
    """UserError for an axis or a reference that the study does not have, and for a bad draw."""
    levels = {axis.name: axis.levels for axis in axes}
    for field, names in (('axis', [compare.axis]), ('family', compare.family)):
        for name in names:
            if name not in levels and (name or field == 'family'):
                raise UserError(
                    f'--config.compare.{field}={name} is no axis of the study; it has '
                    f'{", ".join(levels)}.'
                )
    if compare.axis in compare.family:
        raise UserError(
            f'--config.compare.family holds {compare.axis}, whose levels are compared with each '
            'other; leave it out.'
        )
    for name in compare.references:
        if compare.axis and name not in (*levels[compare.axis], *REFERENCES):
            raise UserError(
                f'{name!r} in --config.compare.references is no level of {compare.axis}; choose '
                f'from {", ".join(levels[compare.axis])}.'
            )

    if compare.over not in (PATIENTS, PATIENTS_AND_SEEDS) or compare.resamples < 1:
        raise UserError(
            f'--config.compare.over={compare.over} must be {PATIENTS!r} or {PATIENTS_AND_SEEDS!r}, '
            f'and --config.compare.resamples={compare.resamples} 1 or more.'
        )


def compare_all(models: Sequence[Model], compare: ConfigDict, seed: int) -> dict | None:
    """Every level of `compare.axis` against each of `compare.references`, ready for JSON.

    Models are compared whose levels on all other axes are equal, by the headline measure of their
    target, over the seeds that both have; a pair once, also if each is a reference. BEST_SINGLE is
    the level of the axis `curriculum` with one pretext stage that is best there: chosen on the same
    images, which favours it, so that the test against it is a strict one. References that are not
    there are left out. Holm's correction runs over all comparisons with equal levels on the axes of
    `compare.family`. Returns the 'comparisons' of report/study_page.py; None where there is none.
    Raises UserError for models that were tested on different images or for different names.
    """
    if not (models and compare.axis):
        return None
    measure = headline(models[0].exclusive)
    draws = Draws(compare.resamples, seed, compare.over)
    families, rows = [], []
    pages = distinct(model.without(compare.axis) for model in models)
    for common in distinct({axis: page[axis] for axis in compare.family} for page in pages):
        family = []
        for page in pages:
            if common.items() <= page.items():
                group = [model for model in models if model.without(compare.axis) == page]
                found = _compare_page(group, measure, compare, draws)
                family += [{'levels': page, **row} for row in found]
        for row, p in zip(family, holm([row['p'] for row in family]), strict=True):
            row['p_holm'] = p
        families.append({'levels': common, 'comparisons': len(family)})
        rows += family
    return {
        'axis': compare.axis,
        'measure': measure.name,
        'statistic': f'{measure.title}, mean over the seeds',
        'p_value': P_VALUE,
        'over': draws.over,
        'resamples': draws.resamples,
        'seed': draws.seed,
        'confidence': CONFIDENCE,
        'families': families,
        'comparisons': rows,
    }


def distinct(items: Iterable) -> list:
    """Each item once, in the order of its first appearance."""
    found = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _compare_page(
    group: Sequence[Model], measure: Measure, compare: ConfigDict, draws: Draws
) -> list[dict]:
    """The comparisons between models that differ on the axis alone."""
    runs = [run for model in group for run in model.runs]
    for model in group:
        if (model.names, model.exclusive) != (group[0].names, group[0].exclusive):
            raise UserError(
                f'{runs[0].cell.title} and {model.runs[0].cell.title} cannot be compared: they '
                f'tell {", ".join(group[0].names)} and {", ".join(model.names)}. {_ANOTHER_AXIS}'
            )
    tables, titles = [run.table for run in runs], [run.cell.title for run in runs]
    try:
        tables, cohort = aligned(tables, group[0].names, group[0].exclusive, titles)
    except UserError as error:
        raise UserError(f'{error} {_ANOTHER_AXIS}') from None
    found = resample([measure], tables, cohort, draws)
    columns: dict[str, dict[int, int]] = {}
    for column, run in enumerate(runs):
        columns.setdefault(run.cell.levels[compare.axis], {})[run.cell.seed] = column
    rows, done = [], set()
    for role in compare.references:
        reference = role
        if role == BEST_SINGLE and compare.axis == CURRICULUM:
            reference = _best_single(group, found, measure, columns)
        for name in columns:
            pair = frozenset((name, reference))
            if reference not in columns or len(pair) < 2 or pair in done:
                continue
            done.add(pair)
            seeds = [seed for seed in columns[name] if seed in columns[reference]]
            chosen = [[columns[x][seed] for seed in seeds] for x in (name, reference)]
            row = {'first': name, 'second': reference, 'role': role, 'seeds': seeds}
            rows.append(row | difference(found, measure, *chosen))
    return rows


def _best_single(
    group: Sequence[Model], found: Resampled, measure: Measure, columns: dict
) -> str | None:
    """The curriculum of one pretext stage with the best mean over its seeds; None without one."""
    values, sign = found.of(measure)[0], 1 if measure.higher_is_better else -1
    means = {
        name: sign * np.mean(values[list(columns[name].values())])
        for name in (model.levels[CURRICULUM] for model in group if len(model.tasks) == 1)
    }
    known = {name: value for name, value in means.items() if np.isfinite(value)}
    return max(known, key=known.get, default=None)
