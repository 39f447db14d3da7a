"""From the results of a study's runs to what its report shows."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.seeds import mean_over_seeds
from cxr_jax.report.formats import number
from cxr_jax.run.settings import kind_of
from cxr_jax.study.comparison import compare_all
from cxr_jax.study.grid import CURRICULUM, Axis, Layout, layout_of
from cxr_jax.study.models import Finished, Model, models_of
from cxr_jax.study.order import label_order

KINDS = ('baseline', 'single', 'pair', 'triple')  # by the number of pretext stages


def assemble(config: ConfigDict, axes: Sequence[Axis], finished: Sequence[Finished]) -> dict:
    """The dict of report/study_page.py, without its name, command, banner and plan."""
    layout, models, first = layout_of(config, axes), models_of(finished), finished[0].results
    figures = [_over_seeds(model, config) for model in models]
    labels = _labels(finished, models, figures) if layout.rows == CURRICULUM else {}

    def heading(run: Finished) -> dict:
        """What the tables say of the levels of a cell."""
        levels = dict(run.cell.levels)
        return {'levels': levels, 'label': labels.get(_key(levels), ''), **_row(run, layout)}

    return {
        'data': first['data'],
        'axes': {axis.name: list(axis.levels) for axis in axes},
        'layout': {'rows': layout.rows, 'columns': layout.columns},
        'seeds': list(dict.fromkeys(config.seeds)),
        'folds': first['folds'],
        'measures': {name: x for found in figures for name, x in _measures(found).items()},
        'headline': figures[0]['headline'] if figures else '',
        'cells': [heading(run) | _cell(run) for run in finished],
        'means': [
            heading(model.runs[0]) | {'seeds': model.seeds} | _mean(found)
            for model, found in zip(models, figures, strict=True)
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
    told = level == '_'.join(map(kind_of, run.tasks))  # any other name stays as it is
    kind = KINDS[len(run.tasks)] if len(run.tasks) < len(KINDS) else 'longer'
    return {'title': ' → '.join(run.tasks) if told else level, 'kind': kind}


def _cell(run: Finished) -> dict:
    results = {key: run.results[key] for key in ('region', 'test', 'attention', 'boxes', 'stages')}
    return {'seed': run.cell.seed, 'directory': run.directory, **results}


def _over_seeds(model: Model, config: ConfigDict) -> dict:
    draws = Draws(config.run.eval.resamples, config.run.seed)
    tables = [run.table for run in model.runs]
    return mean_over_seeds(tables, model.names, model.exclusive, draws)


def _measures(found: Mapping) -> dict:
    """How each measure of a model is shown."""
    keys = ('title', 'meaning', 'unit', 'higher_is_better')
    every = found['figures'] | found['name_measures']
    return {name: {key: x[key] for key in keys} for name, x in every.items()}


def _mean(found: Mapping) -> dict:
    """A model's figures as the report has them."""
    keys = ('images', 'patients', 'per_name', 'attention', 'boxes')
    figures = {name: x['figure'] for name, x in found['figures'].items()}
    return {'figures': figures} | {key: found[key] for key in keys}


def _labels(
    finished: Sequence[Finished], models: Sequence[Model], figures: Sequence[Mapping]
) -> dict[tuple, str]:
    """Levels of every cell -> order label, by the single tasks where all other levels are equal."""
    pretext = {task for run in finished for task in run.tasks}
    alone: dict[tuple, dict] = {}
    for model, found in zip(models, figures, strict=True):
        if len(model.tasks) == 1:
            shown = found['figures'][found['headline']]
            value, sign = shown['figure']['value'], 1 if shown['higher_is_better'] else -1
            beside = alone.setdefault(_key(model.without(CURRICULUM)), {})
            beside[model.tasks[0]] = None if value is None else sign * value
    return {
        _key(run.cell.levels): label_order(
            run.tasks, alone.get(_key(run.cell.without(CURRICULUM)), {}), pretext
        )
        for run in finished
    }
