"""Figures of exclusive classes against numbers that were recorded once (exclusive.json)."""

import json
import pathlib

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import Draws
from cxr_jax.evaluation.difference import paired_difference
from cxr_jax.evaluation.measures.attention import BOXES, LUNGS
from cxr_jax.evaluation.measures.segmentation import mean_figures
from cxr_jax.evaluation.seeds import mean_over_seeds
from tests.evaluation.made_up import made_up_table, without_class

RECORDED = json.loads((pathlib.Path(__file__).parent / 'exclusive.json').read_text())
FOUR, NINE = ([f'c{i}' for i in range(k)] for k in (4, 9))
THREE = [made_up_table(seed, skill=0.3) for seed in (1, 2, 3)]
OTHERS = [made_up_table(seed, skill=0.1) for seed in (4, 5, 6)]
OF_NINE = [without_class(made_up_table(seed, n=120, k=9), 3) for seed in (1, 2)]
BY_NAME = {'class_accuracy': 'accuracy', 'class_f1': 'f1', 'auc': 'auc'}
NUMBERS = ('value', 'low', 'high', 'per_seed', 'sd')


def same(found, recorded):
    """Equal up to the order of a sum."""
    for key in NUMBERS:
        if key in recorded:
            pair = (np.array(x[key], float) for x in (found, recorded))  # None becomes NaN
            np.testing.assert_allclose(*pair, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ('case', 'table', 'names', 'seed', 'resamples'),
    [
        ('four classes', made_up_table(), FOUR, 5, 300),
        ('nine classes, one absent', OF_NINE[0], NINE, 0, 200),
    ],
)
def test_figures_of_one_table(case, table, names, seed, resamples):
    found = measures.evaluate(table, names, True, seed, resamples)
    recorded = RECORDED[case]['test']
    for name in ('balanced_accuracy', 'macro_f1', 'macro_auc', 'accuracy'):
        same(found['figures'][name]['figure'], recorded[name])
        assert found['figures'][name]['figure']['reason'] == recorded[name]['reason']
        assert found['figures'][name]['chance'] == recorded['chance'][name]
    for row, of_class in zip(found['per_name'], recorded['per_class'], strict=True):
        assert [row[key] for key in ('name', 'images', 'patients')] == [
            of_class[key] for key in ('name', 'images', 'patients')
        ]
        for ours, theirs in BY_NAME.items():
            same(row['figures'][ours], of_class[theirs])
            assert row['figures'][ours]['reason'] == of_class[theirs]['reason']
    for key in ('images', 'patients', 'confusion', 'dropped_resamples', 'notes'):
        assert found[key] == recorded[key]


@pytest.mark.parametrize(('part', 'structure'), [('attention', LUNGS), ('boxes', BOXES)])
@pytest.mark.parametrize(
    ('case', 'table', 'names', 'seed', 'resamples'),
    [
        ('four classes', made_up_table(), FOUR, 5, 300),
        ('nine classes, one absent', OF_NINE[0], NINE, 0, 200),
    ],
)
def test_attention_of_one_table(case, table, names, seed, resamples, part, structure):
    found = measures.attention_figures(table, names, True, seed, resamples, structure)
    recorded = RECORDED[case][part]
    keys = (structure.share, structure.area, 'excess')
    counts = ('images', structure.without, 'without_activation')
    assert [found[key] for key in counts] == [recorded[key] for key in counts]
    pairs = [(found, recorded), *zip(found['per_name'], recorded['per_class'], strict=True)]
    for ours, theirs in pairs:
        assert ours['images'] == theirs['images']
        for key in keys:
            same(ours[key], theirs[key])
            assert ours[key]['reason'] == theirs[key]['reason']


@pytest.mark.parametrize(
    ('case', 'tables', 'names', 'draws'),
    [
        ('mean over seeds', THREE, FOUR, Draws(300, 4)),
        ('mean over seeds, nine classes', OF_NINE, NINE, Draws(200, 1)),
    ],
)
def test_means_over_seeds(case, tables, names, draws):
    found, recorded = mean_over_seeds(tables, names, True, draws), RECORDED[case]
    same(found['figures']['balanced_accuracy']['figure'], recorded['balanced_accuracy'])
    for row, of_class in zip(found['per_name'], recorded['class_accuracy'], strict=True):
        same(row['figures']['class_accuracy'], of_class)
    for part in ('attention', 'boxes'):
        assert found[part].keys() == recorded[part].keys()
        assert found[part]['images'] == recorded[part]['images']
        for key in recorded[part].keys() - {'images'}:
            same(found[part][key], recorded[part][key])


@pytest.mark.parametrize(
    ('case', 'first', 'second', 'names', 'draws'),
    [
        ('difference of three and three', THREE, OTHERS, FOUR, Draws(500, 3)),
        ('difference of two and one', THREE[:2], OTHERS[:1], FOUR, Draws(500, 2)),
        ('difference of nine classes', OF_NINE[:1], OF_NINE[1:], NINE, Draws(300, 2)),
    ],
)
def test_differences(case, first, second, names, draws):
    headline = measures.named('balanced_accuracy')
    found = paired_difference(headline, first, second, names, True, draws)
    same(found['difference'], RECORDED[case]['difference'])
    assert found['p'] == RECORDED[case]['p']


def test_means_over_images():
    table = made_up_table()
    values = {'ail': table['ail'][:80], 'area': table['lung_area'][10:90]}
    found = mean_figures(values, table['patients'][:80], 3, 250)
    assert found.keys() == RECORDED['means'].keys()
    for name in values:
        same(found[name], RECORDED['means'][name])
