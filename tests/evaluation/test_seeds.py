"""Means over seeds against single models, plain loops and closed forms."""

import json
import math

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws
from cxr_jax.evaluation.measures.attention import BOXES
from cxr_jax.evaluation.seeds import mean_over_seeds
from data_pipelines.errors import UserError
from tests.evaluation.loops import balanced, loop_samples
from tests.evaluation.made_up import findings_table, models, shuffled

HEADLINE = measures.headline(True).name
NUMBERS = ('value', 'low', 'high')


def means(tables, resamples=2000, seed=0, over='patients'):
    """mean_over_seeds of three classes."""
    return mean_over_seeds(tables, 'abc', True, Draws(resamples, seed, over))


def headline(found):
    return found['figures'][HEADLINE]['figure']


def with_attention(one, seed):
    rng, n = np.random.default_rng(seed), len(one['labels'])
    area, box_area = rng.uniform(0.2, 0.4, (2, n))
    box_area[: n // 2] = np.nan
    return one | {'ail': rng.random(n), 'lung_area': area, 'box_attention': rng.random(n),
                  'box_area': box_area}  # fmt: skip


def same(ours, theirs):
    pair = ([figure[key] for key in NUMBERS] for figure in (ours, theirs))
    np.testing.assert_allclose(*(np.array(x, float) for x in pair), rtol=1e-12)  # None is NaN


@pytest.mark.parametrize('exclusive', [True, False])
def test_one_seed_has_the_figures_of_the_single_run(exclusive):
    one = with_attention(models([0.7])[0] if exclusive else findings_table(), 0)
    found = mean_over_seeds([one], 'abc', exclusive, Draws(300, 4))
    rest = ('abc', exclusive, 4, 300)
    alone = measures.evaluate(one, *rest)
    for name, row in found['figures'].items():
        same(row['figure'], alone['figures'][name]['figure'])
        assert row['figure']['sd'] is None
        assert row['figure']['per_seed'] == [row['figure']['value']]
        assert {**row, 'figure': 0} == {**alone['figures'][name], 'figure': 0}
    for row, other in zip(found['per_name'], alone['per_name'], strict=True):
        for name, figure in row['figures'].items():
            same(figure, other['figures'][name])
        assert {**row, 'figures': 0} == {**other, 'figures': 0}
    for part, single in (
        ('attention', measures.attention_figures(one, *rest)),
        ('boxes', measures.attention_figures(one, *rest, BOXES)),
    ):
        assert found[part]['images'] == single['images'] and len(found[part]) == 4
        for key in found[part].keys() - {'images'}:
            same(found[part][key], single[key])
    assert found['n_seeds'] == 1 and found['headline'] == alone['headline']
    json.dumps(found, allow_nan=False)


def test_seeds_are_averaged_within_each_resample():
    tables = models([0.9, 0.6, 0.7], n=40)
    found = headline(means(tables, resamples=80, seed=3))
    singles = [balanced(t, np.arange(40)) for t in tables]
    assert found['per_seed'] == pytest.approx(singles, rel=1e-12)
    assert found['value'] == pytest.approx(np.mean(singles), rel=1e-12)
    assert found['sd'] == pytest.approx(np.std(singles, ddof=1), rel=1e-12)
    # Minus a model that is always wrong, so minus zero.
    wrong = [tables[0] | {'scores': np.eye(3)[(tables[0]['labels'] + 1) % 3]}]
    samples = np.mean([loop_samples([t], wrong, 80, 3) for t in tables], axis=0)
    low, high = np.percentile(samples, [2.5, 97.5])
    assert [found['low'], found['high']] == pytest.approx([low, high], rel=1e-10)


def test_copies_of_a_seed_change_nothing_but_the_spread():
    one = with_attention(models([0.7])[0], 0)
    single = means([one])
    for over in ('patients', PATIENTS_AND_SEEDS):
        triple = means([one] * 3, over=over)
        for a, b in ((headline(single), headline(triple)),
                     (single['boxes']['excess'], triple['boxes']['excess'])):  # fmt: skip
            same(b, a)
            assert b['sd'] == pytest.approx(0, abs=1e-15) and len(b['per_seed']) == 3


def test_over_patients_and_seeds_the_interval_covers_training_again():
    """Means of u_i + v_s: the bootstrap's variance is var(u) / P + var(v) / S."""
    rng, n, seeds = np.random.default_rng(0), 90, 10
    one = models([0.7], n)[0] | {'patients': np.arange(n).astype(str)}
    ail, offsets = rng.random(n), rng.normal(0, 0.1, seeds)
    tables = [one | {'ail': ail + v, 'lung_area': np.full(n, 0.3)} for v in offsets]
    for over, variance in (
        ('patients', ail.var() / n),
        (PATIENTS_AND_SEEDS, ail.var() / n + offsets.var() / seeds),
    ):
        found = means(tables, 2000, over=over)
        assert found['over'] == over
        figure = found['attention']['ail']
        width = figure['high'] - figure['low']
        assert width == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.08)
        assert figure['value'] == pytest.approx(ail.mean() + offsets.mean(), rel=1e-12)
    alone = means(tables[:1], 200, over=PATIENTS_AND_SEEDS)['attention']['ail']
    same(alone, means(tables[:1], 200)['attention']['ail'])
    assert alone['reason'] == 'one seed only: the interval does not cover training again'


def test_what_is_missing_is_null_with_a_reason():
    one = models([0.7])[0]
    found = means([one], 50)
    assert found['attention'] is None and found['boxes'] is None
    empty = with_attention(one, 0) | {'box_area': np.full(120, np.nan)}
    found = means([empty, with_attention(one, 1)], 50)
    assert found['boxes']['excess']['per_seed'][0] is None
    assert found['boxes']['excess']['sd'] is None and found['attention']['ail']['sd'] > 0
    found = means([empty], 50)
    assert found['boxes']['images'] == 0
    assert found['boxes']['box_attention']['value'] is None
    assert found['boxes']['box_attention']['reason'] == 'no test image with a lesion box and a map'
    absent = shuffled(one, np.flatnonzero(one['labels'] != 1))
    found = means([absent], 50)
    for figure in found['per_name'][1]['figures'].values():
        assert figure['value'] is None and figure['reason'] == 'no test image of class b'
    assert headline(found)['reason'] == 'mean over 2 of 3 classes: no test image of class b'
    json.dumps(found, allow_nan=False)


def test_seeds_tested_on_other_images_are_refused():
    one, two = models([0.7, 0.6])
    with pytest.raises(UserError, match='seed number 0 and seed number 1 cannot be compared'):
        means([one, shuffled(two, np.arange(100))])
