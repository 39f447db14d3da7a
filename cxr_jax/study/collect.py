"""From the results of a study's runs to what its report shows."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.seeds import mean_over_seeds
from cxr_jax.report.formats import number
from cxr_jax.study.comparison import compare_all
from cxr_jax.study.grid import CURRICULUM, Axis, Layout, kind_of, layout_of
from cxr_jax.study.models import Finished, Model, models_of
from cxr_jax.study.order import label_order


def assemble(config: ConfigDict, axes: Sequence[Axis], finished: Sequence[Finished]) -> dict:
    """The dict of report/study_page.py, without its name, command, banner and plan."""
    layout, models = layout_of(config, axes), models_of(finished)
    means = [_mean(model, config) for model in models]
    best = means[0]['headline'] if means else ''
    labels = _labels(finished, means) if layout.rows == CURRICULUM else {}

    def heading(run: Finished) -> dict:
        levels = dict(run.cell.levels)
        return {'levels': levels, **_row(run, layout), 'label': labels.get(_key(levels), '')}

    first = finished[0].results
    return {
        'data': first['data'],
        'axes': {axis.name: list(axis.levels) for axis in axes},
        'layout': {'rows': layout.rows, 'columns': layout.columns},
        'seeds': list(dict.fromkeys(config.seeds)),
        'folds': first['folds'],
        'measures': {name: x for mean in means for name, x in mean.pop('measures').items()},
        'headline': best,
        'cells': [heading(run) | _cell(run) for run in finished],
        'means': [
            heading(model.runs[0]) | mean for model, mean in zip(models, means, strict=True)
        ],
        'comparisons': compare_all(models, config.compare, config.run.seed),
    }


def headline_of(results: Mapping) -> str:
    """'balanced accuracy 71.2 %' of a run's results."""
    test = results['test']
    if not test:
        return 'no readout'
    shown = test['figures'][test['headline']]
    return f'{shown["title"]} {number(shown["figure"]["value"], shown["unit"])}'


def _key(levels: Mapping[str, str]) -> tuple:
    return tuple(levels.items())


def _row(run: Finished, layout: Layout) -> dict:
    """Title and kind of a cell's level of the row axis."""
    level = run.cell.levels[layout.rows]
    if layout.rows != CURRICULUM:
        return {'title': level, 'kind': ''}
    told = level == '_'.join(run.tasks)  # a level of another name is something of its own
    return {'title': ' → '.join(run.tasks) if told else level, 'kind': kind_of(run.tasks)}


def _cell(run: Finished) -> dict:
    results = {key: run.results[key] for key in ('region', 'test', 'attention', 'boxes', 'stages')}
    return {'seed': run.cell.seed, 'directory': run.directory, **results}


def _mean(model: Model, config: ConfigDict) -> dict:
    """Figures over the seeds, in the form of the report; with 'measures' and 'headline'."""
    draws = Draws(config.run.eval.resamples, config.run.seed)
    tables = [run.table for run in model.runs]
    found = mean_over_seeds(tables, model.names, model.exclusive, draws)
    shown = {
        name: {key: x for key, x in figure.items() if key not in ('figure', 'chance')}
        for name, figure in found['figures'].items()
    }
    return found | {
        'seeds': model.seeds,
        'figures': {name: x['figure'] for name, x in found['figures'].items()},
        'measures': shown | found['name_measures'],
    }


def _labels(finished: Sequence[Finished], means: Sequence[Mapping]) -> dict[tuple, str]:
    """Levels of every cell -> order label, by the means of the single tasks beside it."""
    pretext = {task for run in finished for task in run.tasks}
    tasks = {_key(run.cell.levels): run.tasks for run in finished}
    alone: dict[tuple, dict] = {}
    for mean in means:
        of_cell = tasks[_key(mean['levels'])]
        if len(of_cell) == 1:
            value = mean['figures'][mean['headline']]['value']
            sign = 1 if mean['measures'][mean['headline']]['higher_is_better'] else -1
            place = alone.setdefault(_beside(mean['levels']), {})
            place.setdefault(of_cell[0], None if value is None else sign * value)
    return {
        _key(run.cell.levels): label_order(
            run.tasks, alone.get(_beside(run.cell.levels), {}), pretext
        )
        for run in finished
    }


def _beside(levels: Mapping[str, str]) -> tuple:
    return tuple((axis, level) for axis, level in levels.items() if axis != CURRICULUM)
