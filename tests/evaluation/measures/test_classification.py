"""Figures of exclusive classes and their patient bootstrap against plain loops, closed forms."""

import itertools
import json
import math

import numpy as np
import pytest

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.bootstrap import Draws, bootstrap
from cxr_jax.evaluation.cohort import labelled
from cxr_jax.evaluation.measures.base import resample
from cxr_jax.evaluation.measures.classification import class_f1
from data_pipelines.errors import UserError

CLASSES = ('negative', 'typical', 'indeterminate', 'atypical')
BY_NAME = ('class_accuracy', 'class_f1', 'auc')
MEANS = ('balanced_accuracy', 'macro_f1', 'macro_auc')


def made_up(n=90, k=4, seed=0, skill=0.4, images_per_patient=2):
    """Probabilities on a coarse grid (so that scores tie), labels, patients."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = rng.dirichlet(np.ones(k), n) + skill * (labels[:, None] == np.arange(k))
    probabilities = np.round(scores / scores.sum(1, keepdims=True), 1)
    patients = [f'p{i // images_per_patient:03d}' for i in range(n)]
    return probabilities, labels, patients


def as_table(probabilities, labels, patients):
    return {
        'scores': np.asarray(probabilities), 'labels': np.asarray(labels),
        'patients': np.asarray(patients, str), 'image_ids': np.arange(len(labels)).astype(str),
    }  # fmt: skip


def evaluate(probabilities, labels, patients, classes, **rest):
    return measures.evaluate(as_table(probabilities, labels, patients), classes, True, **rest)


def figures(result):
    return {name: row['figure'] for name, row in result['figures'].items()}


def loop_figures(probabilities, labels, k):
    """Accuracy, then recall, F1 and AUC of each class, counted one by one."""
    predictions = [max(range(k), key=lambda c, row=row: row[c]) for row in probabilities]
    pairs = list(zip(labels, predictions, strict=True))
    recall, f1, auc = [], [], []
    for c in range(k):
        hits = sum(t == c and p == c for t, p in pairs)
        n_true, n_predicted = sum(t == c for t, _ in pairs), sum(p == c for _, p in pairs)
        recall.append(hits / n_true if n_true else math.nan)
        precision = hits / n_predicted if n_predicted else 0
        harmonic = 2 * precision * recall[-1] / (precision + recall[-1]) if hits else 0
        f1.append(harmonic if n_true else math.nan)
        inside = [row[c] for row, t in zip(probabilities, labels, strict=True) if t == c]
        outside = [row[c] for row, t in zip(probabilities, labels, strict=True) if t != c]
        wins = sum((a > b) + (a == b) / 2 for a, b in itertools.product(inside, outside))
        pairs_of_scores = len(inside) * len(outside)
        auc.append(wins / pairs_of_scores if pairs_of_scores else math.nan)
    return np.array([sum(t == p for t, p in pairs) / len(pairs), *recall, *f1, *auc])


def flat(result, key):
    """The same order as loop_figures."""
    rows = [row['figures'][name][key] for name in BY_NAME for row in result['per_name']]
    return np.array([figures(result)['accuracy'][key], *rows], float)


def test_values_equal_plain_counting():
    probabilities, labels, patients = made_up()
    result = evaluate(probabilities, labels, patients, CLASSES, resamples=2)
    expected = loop_figures(probabilities, labels, 4)
    np.testing.assert_allclose(flat(result, 'value'), expected, rtol=1e-12)
    means = [figures(result)[name]['value'] for name in MEANS]
    np.testing.assert_allclose(means, expected[1:].reshape(3, 4).mean(1), rtol=1e-12)
    confusion = np.zeros((4, 4), int)
    for true, row in zip(labels, probabilities, strict=True):
        confusion[true, row.argmax()] += 1
    assert result['confusion'] == confusion.tolist()
    assert [row['images'] for row in result['per_name']] == np.bincount(labels).tolist()


def test_intervals_equal_a_loop_over_resamples_with_images_copied_out():
    k, resamples = 3, 60
    probabilities, labels, patients = made_up(n=24, k=k, images_per_patient=2)
    names, codes = np.unique(patients, return_inverse=True)
    draws = bootstrap(lambda c: {'counts': c}, len(names), len(labels), Draws(resamples, 5))
    rows = []
    for counts in draws['counts']:
        images = np.repeat(np.arange(len(labels)), counts[codes].astype(int))
        rows.append(loop_figures(probabilities[images], labels[images], k))
    rows = np.array(rows)
    result = evaluate(probabilities, labels, patients, CLASSES[:k], seed=5, resamples=resamples)
    low, high = np.nanpercentile(rows, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(flat(result, 'low'), low, rtol=1e-10)
    np.testing.assert_allclose(flat(result, 'high'), high, rtol=1e-10)
    balanced = np.nanpercentile(rows[:, 1 : 1 + k].mean(1), [2.5, 97.5])
    got = figures(result)['balanced_accuracy']
    np.testing.assert_allclose([got['low'], got['high']], balanced, rtol=1e-10)


def accuracy_interval(right, patients, seed=0, resamples=2000):
    """Interval of the overall accuracy when the images in `right` are classified correctly."""
    labels = np.arange(len(right)) % 2
    predictions = np.where(right, labels, 1 - labels)
    table, cohort = labelled(as_table(np.eye(2)[predictions], labels, patients), 'ab', True)
    accuracy = measures.named('accuracy')
    found = resample([accuracy], [table], cohort, Draws(resamples, seed)).figure(accuracy)
    return found['low'], found['high']


def test_interval_of_a_share_is_near_the_normal_approximation():
    right = np.random.default_rng(1).random(500) < 0.8
    low, high = accuracy_interval(right, [str(i) for i in range(500)])
    share = right.mean()
    half = 1.96 * math.sqrt(share * (1 - share) / 500)
    assert low == pytest.approx(share - half, abs=0.1 * half)
    assert high == pytest.approx(share + half, abs=0.1 * half)


def test_copies_of_a_patients_images_do_not_narrow_the_interval():
    right = np.random.default_rng(2).random(101) < 0.7
    patients = np.array([f'{i:03d}' for i in range(101)])
    single = accuracy_interval(right, patients)
    # Three copies (an odd number keeps the alternating labels of the helper in step).
    copies = accuracy_interval(np.tile(right, 3), np.tile(patients, 3))
    assert copies == pytest.approx(single, rel=1e-12)
    as_if_independent = accuracy_interval(np.tile(right, 3), np.arange(303).astype(str))
    ratio = (single[1] - single[0]) / (as_if_independent[1] - as_if_independent[0])
    assert ratio == pytest.approx(math.sqrt(3), rel=0.15)


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        # 80 patients of 3 images that are right or wrong together: strong clustering.
        right = np.repeat(rng.random(80) < 0.6, 3)
        patients = np.repeat(np.arange(80), 3).astype(str)
        low, high = accuracy_interval(right, patients, seed=trial, resamples=600)
        covered += low <= 0.6 <= high
    assert 180 <= covered <= 199  # 95 %: 190 with a standard deviation of 3


def test_order_of_the_images_does_not_matter_but_the_seed_does():
    probabilities, labels, patients = made_up()
    order = np.random.default_rng(0).permutation(len(labels))
    first = evaluate(probabilities, labels, patients, CLASSES, seed=1)
    second = evaluate(
        probabilities[order], labels[order], np.array(patients)[order], CLASSES, seed=1
    )
    np.testing.assert_allclose(flat(first, 'low'), flat(second, 'low'), rtol=1e-12)
    other = evaluate(probabilities, labels, patients, CLASSES, seed=2)
    assert flat(first, 'low').tolist() != flat(other, 'low').tolist()
    assert flat(first, 'value').tolist() == flat(other, 'value').tolist()


def test_absent_class_is_null_with_its_reason_and_left_out_of_the_means():
    probabilities, labels, patients = made_up()
    keep = labels != 3
    result = evaluate(
        probabilities[keep], labels[keep], np.array(patients)[keep], CLASSES, resamples=200
    )
    row = result['per_name'][3]
    for name in BY_NAME:
        assert row['figures'][name] == {
            'value': None, 'low': None, 'high': None, 'reason': 'no test image of class atypical'
        }
    expected = loop_figures(probabilities[keep], labels[keep], 4)[1:].reshape(3, 4)[:, :3].mean(1)
    for name, mean in zip(MEANS, expected, strict=True):
        found = figures(result)[name]
        assert found['value'] == pytest.approx(mean, rel=1e-12)
        assert found['low'] < mean < found['high']
        assert found['reason'] == 'mean over 3 of 4 classes: no test image of class atypical'
    assert result['figures']['balanced_accuracy']['chance'] == pytest.approx(1 / 3)
    assert any('atypical' in note for note in result['notes'])
    json.dumps(result, allow_nan=False)


def test_class_of_one_patient_has_values_but_no_interval():
    probabilities, labels, _ = made_up(n=40, k=2)
    patients = [('only' if label else f'p{i}') for i, label in enumerate(labels)]
    result = evaluate(probabilities, labels, patients, 'ab')
    accuracy = result['per_name'][1]['figures']['class_accuracy']
    assert accuracy['value'] is not None and accuracy['low'] is None
    assert 'one patient' in accuracy['reason']
    assert result['per_name'][0]['figures']['class_accuracy']['low'] is not None
    people = len(set(patients))
    share = result['dropped_resamples'] / 2000
    assert share == pytest.approx((1 - 1 / people) ** people, abs=0.04)


@pytest.mark.parametrize('n', [0, 1, 5])
def test_few_images_of_one_class_do_not_crash(n):
    result = evaluate(np.full((n, 2), 0.5), np.zeros(n, int), ['same'] * n, 'ab', resamples=20)
    json.dumps(result, allow_nan=False)
    other = 'a class other than ' if n else 'class '
    assert figures(result)['macro_auc'] == {
        'value': None, 'low': None, 'high': None,
        'reason': f'mean over 0 of 2 classes: no test image of {other}a; no test image of class b',
    }
    assert figures(result)['accuracy']['value'] == (1 if n else None)
    assert figures(result)['accuracy']['low'] is None


def test_chance_is_what_guessing_reaches():
    labels = np.repeat([0, 1, 2], [30, 60, 110])
    patients = np.arange(200).astype(str)
    guesses = {
        'accuracy': np.tile([0, 0, 1.0], (200, 1)),  # always the largest class
        'balanced_accuracy': np.tile([0, 1.0, 0], (200, 1)),
        'macro_auc': np.full((200, 3), 1 / 3),
    }
    for name, guess in guesses.items():
        result = evaluate(guess, labels, patients, 'abc', resamples=2)
        row = result['figures'][name]
        assert row['figure']['value'] == pytest.approx(row['chance'])
    # Guessing class c in a share q_c = p_c of the images: expected confusion p p^T.
    p = np.array([30, 60, 110]) / 200
    expected = result['figures']['macro_f1']['chance']
    assert class_f1(np.outer(p, p)).mean() == pytest.approx(expected)


def test_values_that_are_not_finite_are_the_users_learning_rate():
    probabilities, labels, patients = made_up()
    probabilities[3, 1] = np.nan
    with pytest.raises(UserError, match='1 of 90 test images.*learning rate'):
        evaluate(probabilities, labels, patients, CLASSES)


@pytest.mark.parametrize('bad', [-2, 4])
def test_labels_out_of_range_are_refused(bad):
    probabilities, labels, patients = made_up()
    labels[0] = bad
    with pytest.raises(ValueError, match='labels'):
        evaluate(probabilities, labels, patients, CLASSES)
