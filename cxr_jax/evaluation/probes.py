"""What frozen features tell without any training: nearest neighbours and a closed-form ridge probe.

Features are float [N, D], one row an image. Labels are those of a target: int [N], the class or -1
where it is not known, or int [N, K] of 1, 0 and -1. An image says nothing about what is not known
of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Candidates of the penalty, as a share of the (weighted) number of images.
PENALTIES = np.logspace(-4, 3, 15)
LENGTH_FLOOR = 1e-12
LEVERAGE_CEILING = 1 - 1e-9


def knn_scores(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Votes of the k nearest images of the bank [N, D] for each query [M, D] -> [M, classes].

    Wu et al. 2018, section 3.4: a neighbour of cosine similarity s votes with exp(s / temperature);
    votes are shares of their sum, so rows of exclusive classes sum to 1. Only images whose label
    (of this finding) is known are neighbours; of equally near ones the first. NaN where there are
    none.
    """
    similarity = _unit(queries) @ _unit(bank).T

    def votes(rows, positive):
        own = similarity[:, rows]
        order = np.argsort(-own, axis=1, kind='stable')[:, :k]
        near = np.take_along_axis(own, order, axis=1)
        weights = np.exp((near - near[:, :1]) / temperature)
        weights /= weights.sum(1, keepdims=True)
        return np.einsum('mk,mkj->mj', weights, positive[order])

    return _of_known(votes, labels, classes, len(queries))


class Ridge(NamedTuple):
    """A linear probe: scores (x - mean) / std @ weights + bias."""

    weights: np.ndarray  # [D, K]
    bias: np.ndarray  # [K]
    mean: np.ndarray  # [D], of the features
    std: np.ndarray  # [D]; 1 where a feature is constant
    penalty: np.ndarray  # [K]: the chosen one of `penalties`


def ridge_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, penalties=PENALTIES
) -> Ridge:
    """Least squares on 0 and 1 over standardised features [N, D], the intercept not penalised.

    Minimises sum_i r_i (t_i - x_i w - b)^2 + penalty · sum(r) · |w|^2; exclusive classes weigh the
    same altogether (r_i = N / (K n_c)), as they do in the balanced accuracy, and images of findings
    alike. The penalty of least leave-one-out error, which has a closed form (Golub et al. 1979), is
    chosen, the greater of equal ones: one for all exclusive classes, or one for each finding.
    """
    features = np.asarray(features, np.float64)
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 1e-9 * np.abs(mean), std, 1.0)
    x, exclusive = (features - mean) / std, np.ndim(labels) == 1
    descending = np.sort(np.asarray(penalties, float))[::-1]

    def solve(rows, positive):
        share = np.ones(len(positive))
        if exclusive:
            share = positive @ (1 / np.maximum(positive.sum(0), 1))
        return _least_squares(x[rows], positive, share / share.mean(), descending, exclusive).T

    found = _of_known(solve, labels, classes, x.shape[1] + 2).T
    return Ridge(found[:, :-2].T, found[:, -2], mean, std, found[:, -1])


def ridge_scores(ridge: Ridge, queries: np.ndarray) -> np.ndarray:
    """[M, K] of queries [M, D]: to rank images or classes by; they are no probabilities."""
    return (queries - ridge.mean) / ridge.std @ ridge.weights + ridge.bias


def _least_squares(x, targets, share, penalties, together: bool) -> np.ndarray:
    """[J, D + 2]: weights, intercept and penalty of each of the J columns of `targets` [n, J].

    `share`: weights of the rows, 1 on average. `together`: one penalty for all columns.
    """
    n, root = len(x), np.sqrt(share)[:, None]
    centre, level = share @ x / n, share @ targets / n
    xc, tc = root * (x - centre), root * (targets - level)
    # xc = U S V^T: squares of S, and V, from the smaller side; z = U S.
    if n > x.shape[1]:
        squares, v = np.linalg.eigh(xc.T @ xc)
    else:
        _, singular, vt = np.linalg.svd(xc, full_matrices=False)
        squares, v = singular**2, vt.T
    z = xc @ v
    zt, z2 = z.T @ tc, z**2
    errors, coefficients = [], []
    for penalty in penalties:
        shrunk = 1 / (squares + penalty * n)
        coefficients.append(v @ (shrunk[:, None] * zt))
        leverage = share / n + z2 @ shrunk
        left = (tc - xc @ coefficients[-1]) / (1 - np.minimum(leverage, LEVERAGE_CEILING))[:, None]
        errors.append((left**2).mean(0))
    errors = np.array(errors)
    if together:
        errors = np.repeat(errors.mean(1, keepdims=True), errors.shape[1], axis=1)
    best = errors.argmin(0)
    weights = np.stack([coefficients[i][:, j] for j, i in enumerate(best)])
    return np.column_stack([weights, level - weights @ centre, penalties[best]])


def _of_known(solve: Callable, labels: np.ndarray, classes: int, length: int) -> np.ndarray:
    """[length, classes], column by column from the images of which that column is known.

    `solve(rows, positive)` of row numbers [n] and bool as float [n, J] -> [length, J]; findings
    that are known of the same images are solved at once.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1:
        positive = labels[:, None] == np.arange(classes)
        known = np.repeat(labels[:, None] >= 0, classes, axis=1)
    else:
        positive, known = labels == 1, labels >= 0
    found = np.full((length, classes), np.nan)
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        columns, rows = np.flatnonzero(which.ravel() == number), np.flatnonzero(pattern)
        if len(rows):
            found[:, columns] = solve(rows, positive[rows][:, columns].astype(np.float64))
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LENGTH_FLOOR)
