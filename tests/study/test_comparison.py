"""Comparisons along one axis: which pairs, on which seeds, in which family, with which numbers."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.difference import holm, paired_difference
from cxr_jax.evaluation.measures import headline
from cxr_jax.study import comparison
from cxr_jax.study.comparison import BEST_SINGLE, REFERENCES, check, compare_all
from cxr_jax.study.grid import Axis
from cxr_jax.study.models import models_of
from data_pipelines.errors import UserError
from tests.study.made_up import NAMES, finished

SKILLS = {'scratch': 0.45, 'rot': 0.6, 'moco': 0.75, 'rot_moco': 0.8}


def settings(**changes):
    return ConfigDict({
        'axis': 'curriculum', 'references': REFERENCES, 'family': ('region',), 'resamples': 200,
        'over': 'patients',
    } | changes)  # fmt: skip


def a_study():
    """Two seeds on whole images; one seed on lungs, there also of two classes."""
    runs = [finished({'curriculum': name, 'region': 'full', 'classes': 'all'}, skill, seed)
            for seed in (0, 1) for name, skill in SKILLS.items()]  # fmt: skip
    lungs = {'region': 'black', 'classes': 'all'}
    runs += [finished({'curriculum': name, **lungs}, x) for name, x in SKILLS.items()]
    two = {'region': 'black', 'classes': 'a/b'}
    skills = SKILLS | {'rot': 0.95}
    return runs + [
        finished({'curriculum': name, **two}, x, names=NAMES[:2]) for name, x in skills.items()
    ]


def test_every_level_meets_every_reference_once_and_holm_spans_the_family():
    found = compare_all(models_of(a_study()), settings(), seed=1)
    json.dumps(found, allow_nan=False)
    pairs = {}
    for row in found['comparisons']:
        page = tuple(row['levels'].values())
        pairs.setdefault(page, []).append((row['first'], row['second'], row['role']))
    from_scratch = [(name, 'scratch', 'scratch') for name in ('rot', 'moco', 'rot_moco')]
    best_moco = [(name, 'moco', BEST_SINGLE) for name in ('rot', 'rot_moco')]
    best_rot = [(name, 'rot', BEST_SINGLE) for name in ('moco', 'rot_moco')]
    assert pairs == {
        ('full', 'all'): from_scratch + best_moco,
        ('black', 'all'): from_scratch + best_moco,
        ('black', 'a/b'): from_scratch + best_rot,
    }
    assert found['families'] == [
        {'levels': {'region': 'full'}, 'comparisons': 5},
        {'levels': {'region': 'black'}, 'comparisons': 10},
    ]
    for family in found['families']:
        mine = [row for row in found['comparisons'] if family['levels'].items()
                <= row['levels'].items()]  # fmt: skip
        assert [row['p_holm'] for row in mine] == holm([row['p'] for row in mine])
    assert (found['axis'], found['measure']) == ('curriculum', headline(True).name)
    assert (found['resamples'], found['seed'], found['over']) == (200, 1, 'patients')


def test_one_family_of_all_and_families_by_two_axes():
    models = models_of(a_study())
    sizes = {
        family: [each['comparisons'] for each in compare_all(models, settings(family=family),
                                                             seed=0)['families']]
        for family in ((), ('classes',), ('region', 'classes'))
    }  # fmt: skip
    assert sizes == {(): [15], ('classes',): [10, 5], ('region', 'classes'): [5, 5, 5]}
    # One family of 15: Holm's factors are those of all pages together.
    found = compare_all(models, settings(family=()), seed=0)['comparisons']
    assert [row['p_holm'] for row in found] == holm([row['p'] for row in found])


@pytest.mark.parametrize('over', ['patients', 'patients and seeds'])
def test_a_comparison_is_that_of_the_pair_alone(over):
    runs = a_study()
    rows = compare_all(models_of(runs), settings(over=over), seed=2)['comparisons']
    [row] = [row for row in rows if row['levels']['region'] == 'full'
             and (row['first'], row['second']) == ('rot_moco', 'scratch')]  # fmt: skip
    tables = {(run.cell.levels['curriculum'], run.cell.seed): run.table for run in runs[:8]}
    pair = [[tables[name, seed] for seed in (0, 1)] for name in ('rot_moco', 'scratch')]
    alone = paired_difference(headline(True), *pair, NAMES, True, Draws(200, 2, over))
    assert row['seeds'] == [0, 1] and {key: row[key] for key in alone} == alone


def test_levels_of_any_axis_are_compared_with_all_others_equal():
    compare = settings(axis='region', references=('full',), family=())
    rows = compare_all(models_of(a_study()), compare, seed=0)['comparisons']
    pairs = [(row['levels'], row['first'], row['second']) for row in rows]
    assert pairs == [({'curriculum': x, 'classes': 'all'}, 'black', 'full') for x in SKILLS]
    # Both were trained from seed 0, whose made-up predictions are equal.
    assert all(row['seeds'] == [0] and row['p'] == 1 for row in rows)
    assert compare_all(models_of(a_study()), settings(axis=''), seed=0) is None


def test_only_seeds_of_both_are_compared():
    runs = [finished({'curriculum': name}, 0.6, seed)
            for name, seed in (('scratch', 0), ('rot', 0), ('rot', 1), ('moco', 1))]  # fmt: skip
    rows = compare_all(models_of(runs), settings(family=()), seed=0)['comparisons']
    rows = {(row['first'], row['second']): row for row in rows}
    assert rows['rot', 'scratch']['seeds'] == [0] and rows['rot', 'scratch']['p'] is not None
    missing = rows['moco', 'scratch']
    assert missing['p'] is None and missing['p_holm'] is None and missing['seeds'] == []
    assert missing['difference']['reason'] == 'no seed in common'


def test_the_best_single_task_where_lower_is_better(monkeypatch):
    import dataclasses

    measure = dataclasses.replace(headline(True), higher_is_better=False)
    monkeypatch.setattr(comparison, 'headline', lambda exclusive: measure)
    runs = [finished({'curriculum': name}, skill) for name, skill in SKILLS.items()]
    rows = compare_all(models_of(runs), settings(references=(BEST_SINGLE,), family=()), 0)
    assert {row['second'] for row in rows['comparisons']} == {'rot'}


def test_findings_are_compared_by_their_own_headline():
    runs = [finished({'curriculum': name}, skill, exclusive=False)
            for name, skill in SKILLS.items()]  # fmt: skip
    found = compare_all(models_of(runs), settings(family=()), seed=0)
    assert found['measure'] == headline(False).name and len(found['comparisons']) == 5
    tables = {run.cell.levels['curriculum']: run.table for run in runs}
    alone = paired_difference(
        headline(False), [tables['moco']], [tables['scratch']], NAMES, False, Draws(200)
    )
    [row] = [x for x in found['comparisons'] if (x['first'], x['second']) == ('moco', 'scratch')]
    assert row['difference'] == alone['difference'] and row['difference']['value'] > 0.1


def test_other_images_and_other_names_are_refused():
    runs = [finished({'curriculum': 'scratch'}, 0.5),
            finished({'curriculum': 'rot'}, 0.6, of=1)]  # fmt: skip
    words = 'scratch, seed 0 and rot, seed 0 cannot be compared: .* differ in image ids.*axis=NAME'
    with pytest.raises(UserError, match=words):
        compare_all(models_of(runs), settings(family=()), seed=0)
    compare = settings(axis='classes', references=('all',), family=())
    with pytest.raises(UserError, match='they tell a, b, c and a, b'):
        compare_all(models_of(a_study()), compare, seed=0)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'axis': 'regoin'}, 'compare.axis=regoin is no axis of the study; it has curr'),
        ({'family': ('x',)}, 'compare.family=x is no axis'),
        ({'family': ('',)}, 'compare.family= is no axis'),
        ({'family': ('curriculum',)}, 'leave it out'),
        ({'references': ('scratsh',)}, "'scratsh' in --config.compare.references is no level"),
        ({'over': 'seeds'}, 'compare.over=seeds must be'),
        ({'resamples': 0}, 'compare.resamples=0 1 or more'),
    ],
)
def test_what_cannot_be_compared(changes, words):
    axes = [Axis('curriculum', {'scratch': {}, 'rot': {}}), Axis('region', {'full': {}})]
    check(settings(), axes)
    check(settings(axis='region', references=('full',), family=()), axes)
    with pytest.raises(UserError, match=words):
        check(settings(**changes), axes)


def test_resampling_is_reproducible_and_follows_its_seed():
    models = models_of(a_study()[:4])
    one, again, other = (
        [row['difference'] for row in compare_all(models, settings(), seed)['comparisons']]
        for seed in (0, 0, 1)
    )
    assert one == again
    assert [x['value'] for x in one] == [x['value'] for x in other]
    assert not np.array_equal([x['low'] for x in one], [x['low'] for x in other])
