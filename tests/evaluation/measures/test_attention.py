"""Means of attention inside structures against plain means and the normal approximation."""

import json

import numpy as np
import pytest

from cxr_jax.evaluation.measures import attention_figures
from cxr_jax.evaluation.measures.attention import BOXES
from tests.evaluation.made_up import findings_table


def table_of(ail, area, labels, patients):
    labels = np.asarray(labels)
    return {
        'scores': np.zeros((len(labels), labels.max() + 1)), 'labels': labels,
        'patients': np.asarray(patients, str), 'image_ids': np.arange(len(labels)).astype(str),
        'ail': ail, 'lung_area': area,
    }  # fmt: skip


def figures_of(ail, area, labels, patients, names, **rest):
    table = table_of(ail, area, labels, patients)
    table['scores'] = np.zeros((len(labels), len(names)))
    return attention_figures(table, names, True, **rest)


def test_means_run_over_the_images_with_a_mask_and_a_map():
    rng = np.random.default_rng(0)
    ail, area = rng.random(60), rng.random(60)
    labels, patients = np.arange(60) % 3, [f'p{i // 2}' for i in range(60)]
    ail[:6], area[50:] = np.nan, np.nan
    result = figures_of(ail, area, labels, patients, 'abcd', resamples=300)
    used = slice(6, 50)
    assert (result['images'], result['without_mask'], result['without_activation']) == (44, 10, 6)
    expected = {'ail': ail[used].mean(), 'lung_area': area[used].mean(),
                'excess': (ail - area)[used].mean()}  # fmt: skip
    for name, value in expected.items():
        assert result[name]['value'] == pytest.approx(value, rel=1e-12)
        assert result[name]['low'] < value < result[name]['high']
    for c, row in enumerate(result['per_name'][:3]):
        mine = labels[used] == c
        assert row['images'] == mine.sum()
        assert row['ail']['value'] == pytest.approx(ail[used][mine].mean(), rel=1e-12)
    assert result['per_name'][3]['ail']['value'] is None
    assert 'class d' in result['per_name'][3]['ail']['reason']
    json.dumps(result, allow_nan=False)


def test_interval_of_mean_attention_is_near_the_normal_approximation():
    ail = np.random.default_rng(4).beta(4, 5, 400)
    patients = np.arange(400).astype(str)
    result = figures_of(ail, np.full(400, 0.3), np.zeros(400, int), patients, 'a')
    half = 1.96 * ail.std(ddof=1) / 20
    assert result['ail']['low'] == pytest.approx(ail.mean() - half, abs=0.1 * half)
    assert result['ail']['high'] == pytest.approx(ail.mean() + half, abs=0.1 * half)
    assert result['excess']['low'] == pytest.approx(result['ail']['low'] - 0.3)
    assert result['lung_area']['low'] == pytest.approx(0.3)


def test_no_lung_mask_at_all_gives_null_attention():
    result = figures_of(np.ones(4), np.full(4, np.nan), np.zeros(4, int), list('abcd'), 'xy')
    assert result['ail']['value'] is None and result['without_mask'] == 4
    assert result['ail']['reason'] == 'no test image with a lung mask and a map'


def test_figures_of_boxes_are_the_attention_figures_under_other_names():
    rng = np.random.default_rng(0)
    share, area = rng.random(40), rng.random(40)
    share[:3], area[30:] = np.nan, np.nan
    table = table_of(share, area, np.arange(40) % 2, [f'p{i // 2}' for i in range(40)])
    table |= {'box_attention': share, 'box_area': area}
    rest = ('ab', True, 5, 200)
    boxes, lungs = attention_figures(table, *rest, BOXES), attention_figures(table, *rest)
    for ours, theirs in (('box_attention', 'ail'), ('box_area', 'lung_area'), ('excess', 'excess')):
        assert boxes[ours] == lungs[theirs]
        for row, other in zip(boxes['per_name'], lungs['per_name'], strict=True):
            assert row[ours] == other[theirs]
    assert boxes['without_boxes'] == lungs['without_mask'] == 10
    assert boxes['images'] == 27 and 'ail' not in boxes
    table['box_area'] = np.full(40, np.nan)
    nothing = attention_figures(table, *rest, BOXES)
    assert nothing['box_attention']['reason'] == 'no test image with a lesion box and a map'
    del table['box_area']
    assert attention_figures(table, *rest, BOXES) is None


def test_by_positive_finding_an_image_counts_for_each_that_it_shows():
    table = findings_table()
    result = attention_figures(table, 'abc', False, resamples=100)
    labelled = (table['labels'] >= 0).any(1)
    assert result['ail']['value'] == pytest.approx(table['ail'][labelled].mean(), rel=1e-12)
    for k, row in enumerate(result['per_name']):
        mine = table['labels'][:, k] == 1
        assert row['images'] == mine.sum()
        assert row['ail']['value'] == pytest.approx(table['ail'][mine].mean(), rel=1e-12)
        excess = (table['ail'] - table['lung_area'])[mine].mean()
        assert row['excess']['value'] == pytest.approx(excess, rel=1e-12)
    assert sum(row['images'] for row in result['per_name']) > (table['labels'] == 1).any(1).sum()


def test_attention_in_one_patients_images_has_no_interval():
    labels, patients = np.array([0, 0, 1, 1, 0, 1]), list('aabbcd')
    area = np.array([0.3, 0.3, 0.3, 0.3, np.nan, 0.3])
    result = figures_of(np.linspace(0, 1, 6), area, labels, patients, 'xy', resamples=50)
    first, second = (row['ail'] for row in result['per_name'])
    assert first['value'] == pytest.approx(0.1) and first['low'] is None
    assert first['reason'] == 'images of one patient only: no interval'
    assert second['low'] is not None
