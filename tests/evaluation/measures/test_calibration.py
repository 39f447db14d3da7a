"""Calibration against plain loops and closed forms."""

import json

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.cohort import labelled
from cxr_jax.evaluation.measures.calibration import calibration_statistic, reliability
from tests.evaluation.made_up import findings_table, made_up_table


def table_of(scores, labels, patients=None):
    ids = np.arange(len(labels)).astype(str)
    return {'scores': scores, 'labels': labels, 'image_ids': ids,
            'patients': ids if patients is None else patients}  # fmt: skip


def figures(table, names, exclusive, **rest):
    result = measures.evaluate(table, names, exclusive, **rest)
    return {name: row['figure'] for name, row in result['figures'].items()}, result


def test_brier_score_equals_a_loop():
    table = made_up_table()
    squares = [
        sum((p - (c == label)) ** 2 for c, p in enumerate(row))
        for row, label in zip(table['scores'], table['labels'], strict=True)
    ]
    assert figures(table, 'abcd', True, resamples=2)[0]['brier']['value'] == pytest.approx(
        np.mean(squares), rel=1e-12
    )
    table = findings_table()
    known = [(i, k) for i in range(80) for k in range(3) if table['labels'][i, k] >= 0]
    squares = [(table['scores'][place] - table['labels'][place]) ** 2 for place in known]
    found, result = figures(table, 'abc', False, resamples=2)
    assert found['brier']['value'] == pytest.approx(np.mean(squares), rel=1e-12)
    for k, row in enumerate(result['calibration']['per_name']):
        own = [s for s, place in zip(squares, known, strict=True) if place[1] == k]
        assert row['brier'] == pytest.approx(np.mean(own), rel=1e-12)
        assert row['entries'] == len(own)


def test_chance_of_the_brier_score_is_that_of_the_prevalences():
    table = made_up_table()
    shares = np.bincount(table['labels']) / 90
    _, result = figures(table | {'scores': np.tile(shares, (90, 1))}, 'abcd', True, resamples=2)
    row = result['figures']['brier']
    assert row['figure']['value'] == pytest.approx(row['chance'], rel=1e-12)
    table = findings_table()
    shares = [(table['labels'] == 1)[:, k].sum() / (table['labels'] >= 0)[:, k].sum()
              for k in range(3)]  # fmt: skip
    _, result = figures(table | {'scores': np.tile(shares, (80, 1))}, 'abc', False, resamples=2)
    row = result['figures']['brier']
    assert row['figure']['value'] == pytest.approx(row['chance'], rel=1e-12)


def test_calibration_error_is_the_mean_distance_of_the_bins():
    # Ten bins of ten scores each; bin b says (b + 0.5) / 10, and b of ten come true.
    scores = np.repeat((np.arange(10) + 0.5) / 10, 10)
    true = np.concatenate([np.arange(10) < b for b in range(10)])
    table = table_of(scores[:, None], true[:, None].astype(int))
    found, result = figures(table, ['mass'], False, resamples=20)
    assert found['ece']['value'] == pytest.approx(0.05)
    assert result['calibration']['per_name'][0]['ece'] == pytest.approx(0.05)
    rows = result['calibration']['reliability']
    assert [row['entries'] for row in rows] == [10] * 10
    np.testing.assert_allclose([row['predicted'] for row in rows], np.unique(scores), rtol=1e-12)
    np.testing.assert_allclose([row['observed'] for row in rows], np.arange(10) / 10)
    assert found['ece']['low'] is None and 'no interval' in found['ece']['reason']


def test_confidence_of_classes_is_held_against_how_often_they_are_right():
    # Sure in 80 % and right in 75 % of the first, sure in 60 % and right in 50 % of the others.
    scores = np.repeat([[0.8, 0.2], [0.4, 0.6]], 40, axis=0)
    labels = np.concatenate([np.arange(40) >= 30, np.arange(40) < 20]).astype(int)
    found, result = figures(table_of(scores, labels), 'ab', True, resamples=20)
    assert found['ece']['value'] == pytest.approx((0.05 + 0.1) / 2)
    assert [(r['entries'], r['predicted'], r['observed'])
            for r in result['calibration']['reliability']] == [
        (40, pytest.approx(0.6), pytest.approx(0.5)), (40, pytest.approx(0.8), pytest.approx(0.75))
    ]  # fmt: skip
    assert result['calibration']['of'] == 'confidence'
    assert result['calibration']['per_name'] == []


def test_equal_scores_share_a_bin_so_that_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(0)
    scores, true = rng.random(300).round(1), rng.random(300) < 0.5
    order = rng.permutation(300)
    rows, again = reliability(scores, true), reliability(scores[order], true[order])
    for row, other in zip(rows, again, strict=True):
        assert row == pytest.approx(other, rel=1e-12)
    assert sum(row['entries'] for row in rows) == 300


def test_calibrated_scores_have_a_small_error_that_a_shift_raises_by_itself():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.2, 0.8, 20_000)
    labels = (rng.random(20_000) < scores).astype(int)[:, None]
    found = measures.value(measures.named('ece'), table_of(scores[:, None], labels), 'a', False)
    assert found < 0.015
    shifted = table_of(scores[:, None] + 0.15, labels)
    found = measures.value(measures.named('ece'), shifted, 'a', False)
    assert found == pytest.approx(0.15, abs=0.015)


@pytest.mark.parametrize('exclusive', [True, False])
def test_weights_of_the_brier_score_are_repeated_rows(exclusive):
    table = made_up_table(k=3) if exclusive else findings_table(n=90)
    rows, cohort = labelled(table, 'abc', exclusive)
    counts = np.random.default_rng(0).integers(0, 4, (3, cohort.n_patients)).astype(float)
    weighted = calibration_statistic(cohort, rows)(counts)['brier']
    for b in range(3):
        images = np.repeat(np.arange(len(cohort)), counts[b, cohort.codes].astype(int))
        again = {name: x[images] for name, x in rows.items()}
        expected = measures.value(measures.named('brier'), again, 'abc', exclusive)
        assert weighted[b] == pytest.approx(expected, rel=1e-12)


def test_interval_of_the_brier_score_is_near_the_normal_approximation():
    rng = np.random.default_rng(2)
    scores, labels = rng.random((500, 1)), rng.integers(0, 2, (500, 1))
    half = 1.96 * ((scores - labels) ** 2).std(ddof=1) / np.sqrt(500)
    found = figures(table_of(scores, labels), 'a', False)[0]['brier']
    assert found['low'] == pytest.approx(found['value'] - half, abs=0.1 * half)
    assert found['high'] == pytest.approx(found['value'] + half, abs=0.1 * half)


def test_a_finding_without_labels_has_no_calibration():
    table = findings_table()
    table['labels'][:, 1] = -1
    result = measures.evaluate(table, 'abc', False, resamples=20)
    row = result['calibration']['per_name'][1]
    assert row == {'name': 'b', 'entries': 0, 'brier': None, 'ece': None, 'reliability': []}
    json.dumps(result, allow_nan=False)
