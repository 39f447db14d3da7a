"""Nearest neighbours and the ridge probe against loops and normal equations."""

import math

import numpy as np
import pytest

from cxr_jax.evaluation.probes import PENALTIES, knn_scores, ridge_probe, ridge_scores

N, M, D, K = 40, 7, 5, 3


def drawn(seed=0, exclusive=True, n=N):
    """(features [n, D], labels, queries [M, D]) with labels that depend on the features."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(D, K))
    features, queries = rng.normal(size=(n, D)) * 3 + 1, rng.normal(size=(M, D))
    scores = features @ truth + rng.normal(size=(n, K))
    labels = scores.argmax(1) if exclusive else (scores > 1).astype(int)
    labels[rng.random(labels.shape) < 0.3] = -1
    return features, labels, queries


def votes_of(bank, labels, query, name, k, temperature, exclusive):
    """One query's share of votes for one name, neighbour by neighbour."""
    found = []
    for number, (row, label) in enumerate(zip(bank, labels, strict=True)):
        known = label if exclusive else label[name]
        if known < 0:
            continue
        cosine = row @ query / math.sqrt((row @ row) * (query @ query))
        positive = label == name if exclusive else label[name] == 1
        found.append((-cosine, number, positive))
    nearest = sorted(found)[:k]
    weights = [math.exp(-far / temperature) for far, _, _ in nearest]
    return sum(w for w, (_, _, yes) in zip(weights, nearest, strict=True) if yes) / sum(weights)


@pytest.mark.parametrize('exclusive', [True, False])
@pytest.mark.parametrize('k', [1, 6, 1000])
def test_votes_of_the_nearest(exclusive, k):
    bank, labels, queries = drawn(1, exclusive)
    found = knn_scores(bank, labels, queries, K, k, temperature=0.2)
    expected = [
        [votes_of(bank, labels, query, name, k, 0.2, exclusive) for name in range(K)]
        for query in queries
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if exclusive:
        np.testing.assert_allclose(found.sum(1), 1)


def test_the_first_of_equally_near_images_vote():
    bank = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    found = knn_scores(bank, np.array([0, 1, 1, 0]), np.array([[5.0, 0.0]]), 2, k=2)
    np.testing.assert_allclose(found, [[0, 1]])


def test_a_finding_of_which_nothing_is_known_has_no_vote():
    found = knn_scores(np.eye(2), np.array([[1, -1], [0, -1]]), np.eye(2), 2, k=1)
    np.testing.assert_array_equal(found, [[1, np.nan], [0, np.nan]])


def normal_equations(x, target, share, penalty):
    """(weights, intercept) by the normal equations with a column of ones."""
    design = np.column_stack([x, np.ones(len(x))])
    ridge = np.diag([*[penalty * share.sum()] * x.shape[1], 0.0])
    weighted = design.T * share
    whole = np.linalg.solve(weighted @ design + ridge, weighted @ target)
    return whole[:-1], whole[-1]


def left_out_error(x, target, share, penalty):
    """Weighted squares of the errors on each row, fitted to all the others."""
    total = 0.0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        own = penalty * share.sum() / share[rest].sum()  # the penalty of the whole
        weights, intercept = normal_equations(x[rest], target[rest], share[rest], own)
        total += share[i] * (target[i] - x[i] @ weights - intercept) ** 2
    return total


@pytest.mark.parametrize('n', [N, 8])  # at 8, with a third not known: fewer than features
@pytest.mark.parametrize('exclusive', [True, False])
def test_ridge_is_the_best_of_the_normal_equations(exclusive, n):
    features, labels, queries = drawn(5, exclusive, n)
    penalties = np.array([1e-4, 1e-2, 0.3, 10.0])
    found = ridge_probe(features, labels, K, penalties)
    x = (features - features.mean(0)) / features.std(0)
    expected = np.zeros((M, K))
    errors = np.zeros((len(penalties), K))
    for name in range(K):
        rows = labels >= 0 if exclusive else labels[:, name] >= 0
        target = (labels[rows] == name if exclusive else labels[rows, name] == 1).astype(float)
        share = np.ones(rows.sum())
        if exclusive:
            share = np.array([1 / (labels[rows] == c).sum() for c in labels[rows]])
            share *= len(share) / share.sum()
        errors[:, name] = [left_out_error(x[rows], target, share, p) for p in penalties]
        weights, intercept = normal_equations(x[rows], target, share, found.penalty[name])
        at = (queries - features.mean(0)) / features.std(0)
        expected[:, name] = at @ weights + intercept
    if exclusive:
        errors = np.repeat(errors.mean(1, keepdims=True), K, axis=1)
    np.testing.assert_array_equal(found.penalty, penalties[errors.argmin(0)])
    np.testing.assert_allclose(ridge_scores(found, queries), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('exclusive', [True, False])
def test_ridge_does_not_depend_on_scale_and_shift(exclusive):
    features, labels, queries = drawn(3, exclusive)
    scale, shift = np.array([1e-3, 1.0, 50.0, 7.0, 1e4]), np.arange(D)
    plain = ridge_scores(ridge_probe(features, labels, K), queries)
    moved = ridge_probe(features * scale + shift, labels, K)
    np.testing.assert_allclose(ridge_scores(moved, queries * scale + shift), plain, rtol=1e-6)


def test_ridge_of_features_that_tell_nothing():
    """Constant ones, and more of them than images: the mean label, under the greatest penalty."""
    labels = np.array([[1, 0], [0, -1], [1, 1], [1, -1]])
    found = ridge_probe(np.full((4, 6), 0.1), labels, 2)
    np.testing.assert_array_equal(found.penalty, PENALTIES.max())
    np.testing.assert_allclose(ridge_scores(found, np.zeros((1, 6))), [[0.75, 0.5]])
