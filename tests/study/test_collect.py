"""What a study's report is given, against the made-up runs that it comes from."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.cohort import pooled
from cxr_jax.evaluation.measures import headline
from cxr_jax.evaluation.seeds import mean_over_seeds
from cxr_jax.study.collect import assemble, headline_of
from cxr_jax.study.comparison import REFERENCES
from cxr_jax.study.grid import Axis
from tests.study.made_up import NAMES, finished

CURRICULA = {'scratch': 0.4, 'rot': 0.8, 'moco': 0.6, 'rot_moco': 0.7, 'moco_rot': 0.75}
REGIONS = ('full', 'black')


def config(**changes):
    flat = ConfigDict({
        'seeds': (0, 1), 'layout': {'rows': 'curriculum', 'columns': 'region'},
        'compare': {'axis': 'curriculum', 'references': REFERENCES, 'family': ('region',),
                    'resamples': 50, 'over': 'patients'},
        'run': {'seed': 3, 'eval': {'resamples': 40}},
    })  # fmt: skip
    flat.update_from_flattened_dict(changes)
    return flat


def axes(curricula=CURRICULA, regions=REGIONS):
    names = {'curriculum': curricula, 'region': regions}
    return [Axis(name, {level: {} for level in levels}) for name, levels in names.items()]


def a_study(**changes):
    """On black, rot is worse than moco."""
    return [
        finished({'curriculum': name, 'region': region},
                 1.2 - skill if region == 'black' else skill, seed, **changes)
        for region in REGIONS for seed in (0, 1) for name, skill in CURRICULA.items()
    ]  # fmt: skip


def test_cells_means_and_the_rest_are_those_of_the_runs():
    runs = a_study()
    found = assemble(config(), axes(), runs)
    json.dumps(found, allow_nan=False)
    assert found['axes'] == {'curriculum': list(CURRICULA), 'region': ['full', 'black']}
    assert found['layout'] == {'rows': 'curriculum', 'columns': 'region'}
    assert (found['seeds'], found['folds'], found['data']) == ([0, 1], 0, {'name': 'phantoms'})
    assert [cell['directory'] for cell in found['cells']] == [run.cell.folder for run in runs]
    for cell, run in zip(found['cells'], runs, strict=True):
        assert cell['test'] is run.results['test'] and cell['seed'] == run.cell.seed
    assert [tuple(mean['levels'].values()) for mean in found['means']] == [
        (name, region) for region in REGIONS for name in CURRICULA
    ]
    tables = [runs[1].table, runs[6].table]  # of rot on full
    alone = mean_over_seeds(tables, NAMES, True, Draws(40, 3))
    mean = found['means'][1]
    assert (mean['seeds'], mean['images'], mean['patients']) == ([0, 1], 90, 45)
    assert mean['per_name'] == alone['per_name'] and mean['attention'] is None
    assert mean['figures'] == {name: x['figure'] for name, x in alone['figures'].items()}
    assert found['headline'] == headline(True).name == alone['headline']
    every = {*mean['figures'], *(name for row in mean['per_name'] for name in row['figures'])}
    assert found['measures'].keys() == every
    for name, shown in found['measures'].items():
        of_test = alone['figures'].get(name) or alone['name_measures'][name]
        assert {shown[key] == of_test[key] for key in ('title', 'unit', 'higher_is_better')}
    assert len(found['comparisons']['comparisons']) == 2 * (4 + 3)


def test_rows_are_named_and_labelled_by_the_single_tasks_beside_them():
    found = assemble(config(), axes(), a_study())
    shown = {tuple(x['levels'].values()): (x['title'], x['kind'], x['label'])
             for x in found['cells']}  # fmt: skip
    assert shown['scratch', 'full'] == ('scratch', 'baseline', '')
    assert shown['rot', 'full'] == ('rot', 'single', '')
    # On full, rot is better alone than moco; on black it is worse.
    assert shown['rot_moco', 'full'] == ('rot → moco', 'pair', 'full anti-curriculum')
    assert shown['moco_rot', 'full'] == ('moco → rot', 'pair', 'full curriculum')
    assert shown['rot_moco', 'black'] == ('rot → moco', 'pair', 'full curriculum')
    assert {tuple(x['levels'].values()): (x['title'], x['kind'], x['label'])
            for x in found['means']} == shown  # fmt: skip


def test_a_level_of_another_name_and_rows_of_another_axis_keep_their_names():
    runs = [finished({'curriculum': 'twice', 'region': 'full'}, 0.5, tasks=('moco', 'moco2'))]
    found = assemble(config(), axes(['twice'], ['full']), runs)
    assert (found['cells'][0]['title'], found['cells'][0]['kind']) == ('twice', 'pair')
    runs = [finished({'curriculum': 'moco_moco', 'region': 'full'}, 0.5, tasks=('moco', 'moco2'))]
    found = assemble(config(), axes(['moco_moco'], ['full']), runs)
    assert found['cells'][0]['title'] == 'moco → moco2'
    changes = {'layout.rows': 'region', 'layout.columns': 'curriculum'}
    found = assemble(config(**changes), axes(), a_study())
    assert {(x['title'], x['kind'], x['label']) for x in found['means']} == {
        ('full', '', ''), ('black', '', ''),
    }  # fmt: skip


def test_runs_without_a_readout_have_cells_and_no_means():
    runs = [dataclasses.replace(run, table=None, results=run.results | {'test': None})
            for run in a_study()]  # fmt: skip
    found = assemble(config(), axes(), runs)
    assert len(found['cells']) == 20 and found['means'] == [] and found['measures'] == {}
    assert (found['comparisons'], found['headline']) == (None, '')
    assert {cell['label'] for cell in found['cells']} == {'', 'full'}
    assert headline_of(runs[0].results) == 'no readout'


def test_findings_have_the_same_tables():
    found = assemble(config(), axes(), a_study(exclusive=False))
    assert found['headline'] == headline(False).name == found['comparisons']['measure']
    assert [row['name'] for row in found['means'][0]['per_name']] == list(NAMES)
    labels = {tuple(x['levels'].values()): x['label'] for x in found['cells']}
    assert labels['moco_rot', 'full'] == 'full curriculum'


def test_out_of_fold_tables_of_seeds_count_every_image_once():
    """The tables of the seeds differ in the order of the images, not in the images."""
    runs = []
    for seed in (0, 1, 2):
        run = finished({'curriculum': 'scratch', 'region': 'full'}, 0.6, seed)
        rows = run.table['image_ids'].argsort() % 5
        folds = [{name: x[rows == k] for name, x in run.table.items()} for k in (3, 1, 4, 0, 2)]
        results = run.results | {'folds': 5}
        runs.append(dataclasses.replace(run, table=pooled(folds), results=results))
    found = assemble(config(seeds=(0, 1, 2)), axes(['scratch'], ['full']), runs)
    [mean] = found['means']
    figure = mean['figures'][found['headline']]
    assert (found['folds'], mean['seeds'], mean['images']) == (5, [0, 1, 2], 90)
    expected = [run.results['test']['figures'][found['headline']]['figure'] for run in runs]
    assert figure['per_seed'] == pytest.approx([each['value'] for each in expected], rel=1e-12)


def test_the_line_of_a_finished_run_names_its_headline():
    figures = {'x': {'title': 'Sharpness', 'unit': 'decimal', 'figure': {'value': 0.51234}},
               'y': {'title': 'Other', 'unit': 'percent', 'figure': {'value': 0.7}}}  # fmt: skip
    assert headline_of({'test': {'headline': 'x', 'figures': figures}}) == 'Sharpness 0.512'
    assert headline_of({'test': {'headline': 'y', 'figures': figures}}) == 'Other 70.0 %'
