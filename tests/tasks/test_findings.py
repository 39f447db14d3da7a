"""Findings with missing labels against plain NumPy, on one device and on several."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cxr_jax.models.encoder import Features
from cxr_jax.tasks.findings import Findings
from tests.tasks.one_step import run_loss

IMAGES, FINDINGS, WIDTH = 16, 3, 4
TASK = Findings(outputs=FINDINGS)


def given_features(params, batch_stats, images):
    """An encoder that passes features on."""
    return Features({'last': images}, images * params, {})


def run(features, labels, head, devices=1):
    params = {'encoder': np.ones((), np.float32), 'head': {'linear': head}}
    stats = {'encoder': {}, 'head': {}}
    state = SimpleNamespace(params=params, batch_stats=stats, extra={}, step=0)
    views = {'image': features, 'label': labels}
    return run_loss(TASK, given_features, state, views, devices)


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    kernel = rng.normal(size=(WIDTH, FINDINGS)).astype(np.float32)
    head = {'kernel': kernel, 'bias': rng.normal(size=FINDINGS).astype(np.float32)}
    return features, rng.integers(-1, 2, (IMAGES, FINDINGS)).astype(np.int32), head


def plain(features, labels, head):
    """(loss, accuracy, gradient of the kernel, gradient of the bias) in float64."""
    x = features.astype(float)
    logits = x @ head['kernel'].astype(float) + head['bias']
    probabilities = 1 / (1 + np.exp(-logits))
    known = labels != -1
    chosen = np.where(labels == 1, probabilities, 1 - probabilities)[known]
    slope = np.where(known, probabilities - (labels == 1), 0) / known.sum()
    return -np.log(chosen).mean(), (chosen > 0.5).mean(), x.T @ slope, slope.sum(0)


def test_missing_labels_may_be_spread_unevenly_over_devices():
    """All that is known of the first image, nothing of the next seven, one finding of the rest."""
    features, labels, head = numbers(1)
    labels = np.where(labels == -1, 0, labels)
    labels[1:8] = -1
    labels[8:, 1:] = -1
    loss, accuracy, kernel, _ = plain(features, labels, head)
    result = run(features, labels, head, 8)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.metrics == {'accuracy': pytest.approx(accuracy)}
    np.testing.assert_allclose(
        result.gradients['head']['linear']['kernel'], kernel, rtol=1e-5, atol=1e-7
    )


def test_a_finding_that_nobody_knows_is_left_as_it_is():
    features, labels, head = numbers(2)
    labels[:, 1] = -1
    result = run(features, labels, head)
    found = result.gradients['head']['linear']
    np.testing.assert_array_equal(found['kernel'][:, 1], np.zeros(WIDTH))
    assert found['bias'][1] == 0 and abs(found['kernel'][:, [0, 2]]).min() > 0
    others = [0, 2]
    part = {'kernel': head['kernel'][:, others], 'bias': head['bias'][others]}
    assert result.loss == pytest.approx(plain(features, labels[:, others], part)[0], rel=1e-5)


@pytest.mark.parametrize('devices', [1, 8])
def test_a_batch_of_which_nothing_is_known_changes_nothing(devices):
    features, labels, head = numbers(3)
    result = run(features, np.full_like(labels, -1), head, devices)
    assert result.loss == 0 and result.metrics == {'accuracy': 0}
    for leaf in jax.tree.leaves(result.gradients):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_extreme_logits_stay_finite():
    features, labels, head = numbers(4)
    result = run(1e4 * features, labels, head)
    assert np.isfinite(result.loss) and result.loss > 100
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.gradients))
