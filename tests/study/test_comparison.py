"""Comparisons of a study and the order of its curricula."""

import json
import warnings

import numpy as np
import pytest

from cxr_jax.evaluation.difference import holm, paired_difference
from cxr_jax.study.comparison import BEST_SINGLE, compare_all, label_order
from data_pipelines.errors import UserError
from tests.evaluation.made_up import models


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def test_other_images_are_refused_with_the_names_of_the_runs():
    a, b = models([0.7, 0.6])
    other = a | {'image_ids': np.char.add(a['image_ids'], 'x')}
    runs = [run('scratch', 0, b), run('rot', 0, other)]
    with pytest.raises(UserError, match=r'scratch \(full, seed 0\) and rot .* differ in image ids'):
        compare_all(runs)


def run(name, seed, predictions, region='full', class_set='all', kind=None):
    kinds = {'scratch': 'baseline', 'imagenet': 'baseline', 'rot': 'single', 'moco': 'single'}
    return {'name': name, 'region': region, 'class_set': class_set, 'seed': seed,
            'kind': kind or kinds.get(name, 'pair'), 'predictions': predictions}  # fmt: skip


def a_study():
    names = ('scratch', 'rot', 'moco', 'rot_moco')
    tables = models([0.45, 0.6, 0.7, 0.75] * 2)
    runs = [run(names[i % 4], i // 4, each) for i, each in enumerate(tables)]
    lungs = [run(name, 0, each, 'lungs_black') for name, each in zip(names, tables, strict=False)]
    tables = models([0.5, 0.9, 0.6, 0.7], k=2, n=60)
    two = [run(n, 0, t, 'lungs_black', 'two') for n, t in zip(names, tables, strict=True)]
    return runs + lungs + two


def test_every_curriculum_meets_every_reference_once_and_holm_spans_the_region():
    found = compare_all(a_study(), resamples=400, seed=1)
    json.dumps(found, allow_nan=False)
    rows = found['comparisons']
    pairs = {(r['name'], r['reference'], r['role']) for r in rows if r['region'] == 'full'}
    assert pairs == {
        ('rot', 'scratch', 'scratch'), ('moco', 'scratch', 'scratch'),
        ('rot_moco', 'scratch', 'scratch'),
        ('rot', 'moco', BEST_SINGLE), ('rot_moco', 'moco', BEST_SINGLE),
    }  # fmt: skip
    assert found['families'] == [
        {'region': 'full', 'comparisons': 5, 'best_single': {'all': 'moco'}},
        {'region': 'lungs_black', 'comparisons': 10,
         'best_single': {'all': 'moco', 'two': 'rot'}},
    ]  # fmt: skip
    for region in ('full', 'lungs_black'):
        mine = [r for r in rows if r['region'] == region]
        assert [r['p_holm'] for r in mine] == holm([r['p'] for r in mine])
    assert (found['resamples'], found['seed'], found['confidence']) == (400, 1, 0.95)


def test_comparisons_are_those_of_the_pair_alone():
    runs = a_study()
    rows = compare_all(runs, resamples=300, seed=2)['comparisons']
    row = next(r for r in rows if (r['region'], r['name']) == ('full', 'rot_moco'))
    tables = {(r['name'], r['seed']): r['predictions'] for r in runs if r['region'] == 'full'}
    alone = paired_difference(
        [tables['rot_moco', s] for s in (0, 1)], [tables['scratch', s] for s in (0, 1)], 300, 2
    )
    assert row['seeds'] == [0, 1] and {k: row[k] for k in alone} == alone


def test_only_seeds_of_both_are_compared():
    tables = models([0.5, 0.7, 0.6])
    runs = [run('scratch', 0, tables[0]), run('rot_moco', 0, tables[1]),
            run('rot_moco', 1, tables[2]), run('moco_rot', 1, tables[2])]  # fmt: skip
    rows = {r['name']: r for r in compare_all(runs, resamples=100)['comparisons']}
    assert rows['rot_moco']['seeds'] == [0]
    assert rows['rot_moco']['difference'] == paired_difference(
        [tables[1]], [tables[0]], 100
    )['difference']  # fmt: skip
    missing = rows['moco_rot']
    assert missing['p'] is None and missing['p_holm'] is None and missing['seeds'] == []
    assert missing['difference']['reason'] == 'no seed in common'


@pytest.mark.parametrize(
    ('tasks', 'label'),
    [
        ('rot moco', 'curriculum'), ('moco rot', 'anti-curriculum'), ('rot moco swav', 'mixed'),
        ('rot swav moco', 'curriculum'), ('moco swav rot', 'anti-curriculum'),
        ('rot tie', 'mixed'), ('rot', ''), ('', ''), ('rot unknown', ''),
        ('rot tie swav moco', 'full mixed'), ('rot tie swav moco unknown', 'full'),
    ],
)  # fmt: skip
def test_order_labels(tasks, label):
    results = {'rot': 0.5, 'tie': 0.5, 'swav': 0.6, 'moco': 0.7}
    assert label_order(tasks.split(), results, results) == label


def test_full_curricula_keep_their_order():
    results = {'rot': 0.5, 'swav': 0.6}
    assert label_order(['rot', 'swav'], results, results) == 'full curriculum'
    assert label_order(['swav', 'rot'], results, results) == 'full anti-curriculum'
