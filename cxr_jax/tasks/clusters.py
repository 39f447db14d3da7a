"""Clusters of a memory that holds a feature of every image, its rows spread over the mesh.

In the functions of the step, memory [n, D] and labels int [n] are this device's rows
(parallel.own_numbers); centroids [K, D] and what is counted are the same on every device. Rows
without an image have the label -1, and so are of no cluster.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import Precision

from cxr_jax.runtime import parallel

SPLIT_ITERATIONS = 20
ROWS_AT_ONCE = 512  # whose distances to every centroid are in memory at one time


def counts(labels, clusters: int):
    """Images of each cluster, int [K]."""
    return lax.psum(jnp.bincount(labels + 1, length=clusters + 1)[1:], parallel.AXIS)


def means(memory, labels, otherwise):
    """Mean of each cluster's rows [K, D]; of an empty one, its row in `otherwise` [K, D]."""
    clusters = otherwise.shape[0]
    rows = min(ROWS_AT_ONCE, memory.shape[0] & -memory.shape[0])  # divides the number of rows

    def add(total, block):
        own, its_labels = block
        # A product rather than a scatter, whose order GPUs leave open.
        members = jax.nn.one_hot(its_labels, clusters, dtype=own.dtype)
        return total + jnp.matmul(members.T, own, precision=Precision.HIGHEST), None

    blocks = memory.reshape(-1, rows, memory.shape[1]), labels.reshape(-1, rows)
    nothing = lax.pcast(jnp.zeros_like(otherwise), (parallel.AXIS,), to='varying')
    total, _ = lax.scan(add, nothing, blocks)
    number = counts(labels, clusters)[:, None]
    found = lax.psum(total, parallel.AXIS) / jnp.maximum(number, 1)
    return jnp.where(number > 0, found, otherwise)


def most_similar(rows, centroids, allowed=None):
    """The centroid with the greatest dot product with each row [b, D], of equal ones the first:
    int [b]. `allowed` bool [K]: among these alone."""
    similarity = jnp.matmul(rows, centroids.T, precision=Precision.HIGHEST)
    if allowed is not None:
        similarity = jnp.where(allowed, similarity, -jnp.inf)
    return similarity.argmax(-1).astype(jnp.int32)


def refill_small(memory, labels, centroids, least: int):
    """(labels, centroids) without clusters of fewer than `least` images (Zhan et al. 2020, 3.3).

    Their images go to the most similar of the other clusters. Then each of them in turn is given
    the second half of the cluster that is the largest by then. Half of it may be small again: that
    is for the next step. At least one cluster must not be small.
    """
    small = counts(labels, centroids.shape[0]) < least

    def dissolve(carry):
        labels, _ = carry
        to = lax.map(
            lambda row: most_similar(row, centroids, ~small), memory, batch_size=ROWS_AT_ONCE
        )
        return jnp.where((labels >= 0) & small[labels], to, labels), jnp.zeros((), bool)

    def refill(carry):
        labels, centroids, empty = carry
        number = empty.argmax().astype(labels.dtype)
        largest = counts(labels, centroids.shape[0]).argmax()
        labels = jnp.where(second_half(memory, labels == largest), number, labels)
        for changed in (largest, number):
            centroids = centroids.at[changed].set(_mean(memory, labels == changed))
        return labels, centroids, empty.at[number].set(False)

    # Loops of at most one pass, unlike a cond, cost nothing where all clusters are large enough
    # also when the steps of several states are computed together.
    labels, _ = lax.while_loop(lambda carry: carry[1], dissolve, (labels, small.any()))
    carry = labels, centroids, small
    labels, centroids, _ = lax.while_loop(lambda carry: carry[2].any(), refill, carry)
    return labels, centroids


def second_half(memory, members):
    """Of `members` bool [n], those of the second of two clusters, found by 2-means: bool [n].

    It starts from a cut through the mean, across the line to the member farthest from it. Members
    that are all alike are halved by their numbers.
    """
    centre = _mean(memory, members)
    distance = jnp.where(members, jnp.square(memory - centre).sum(-1), -1)
    line = _row_of_greatest(memory, distance) - centre
    halves = members & (_products(memory - centre, line) > 0)

    def improve(carry):
        second, _, iterations = carry
        a, b = _mean(memory, members & ~second), _mean(memory, second)
        nearer = _products(memory, b - a) > (b @ b - a @ a) / 2
        moved = _number(second != (members & nearer))
        return members & nearer, moved > 0, iterations + 1

    def improving(carry):
        return carry[1] & (carry[2] < SPLIT_ITERATIONS)

    start = halves, _number(members) > 0, jnp.zeros((), jnp.int32)
    halves, *_ = lax.while_loop(improving, improve, start)
    size = _number(halves)
    return jnp.where((size == 0) | (size == _number(members)), _every_other(members), halves)


def _number(which):
    """How many rows of all devices."""
    return lax.psum(which.sum(dtype=jnp.int32), parallel.AXIS)


def _products(rows, vector):
    return jnp.matmul(rows, vector, precision=Precision.HIGHEST)


def _mean(memory, members):
    """Mean [D] of the members' rows; 0 without any."""
    total = lax.psum(_products(memory.T, members.astype(memory.dtype)), parallel.AXIS)
    return total / jnp.maximum(_number(members), 1)


def _row_of_greatest(memory, values):
    """The row [D] with the greatest value of [n], of equal ones the first of all devices."""
    numbers = parallel.own_numbers(memory)
    top = values == lax.pmax(values.max(), parallel.AXIS)
    first = lax.pmin(jnp.where(top, numbers, jnp.iinfo(jnp.int32).max).min(), parallel.AXIS)
    return lax.psum(jnp.where(numbers == first, memory.T, 0).sum(1), parallel.AXIS)


def _every_other(members):
    """Every second one of the members of all devices, in their order."""
    own = members.sum(dtype=jnp.int32)
    all_own = parallel.rows_of_all(own[None])
    before = jnp.where(jnp.arange(all_own.size) < lax.axis_index(parallel.AXIS), all_own, 0)
    return members & ((before.sum() + jnp.cumsum(members)) % 2 == 0)


def k_means(rows: np.ndarray, clusters: int, iterations: int, seed) -> np.ndarray:
    """Labels int32 [N] of the rows [N, D] after so many iterations of Lloyd; none is empty.

    Starts from `clusters` rows drawn by `seed`, as faiss does. Float64, on the host.
    """
    rows = rows.astype(np.float64)
    start = np.random.default_rng(seed).permutation(len(rows))[:clusters]
    centres, squares = rows[start], np.square(rows).sum(1)
    for _ in range(iterations):
        labels, distance = np.zeros(len(rows), np.int32), np.zeros(len(rows))
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            scores = 2 * rows[part] @ centres.T - np.square(centres).sum(1)
            labels[part] = scores.argmax(1)
            distance[part] = squares[part] - scores.max(1)
        _fill_empty(labels, distance, clusters)
        centres = host_means(rows, labels)
    return labels


def host_means(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Means [K, D] of the rows [N, D] of each cluster, none of which is empty."""
    number, order = np.bincount(labels), np.argsort(labels, kind='stable')
    sums = np.add.reduceat(rows[order], np.cumsum([0, *number[:-1]]))
    return (sums / number[:, None]).astype(rows.dtype)


def _fill_empty(labels: np.ndarray, distance: np.ndarray, clusters: int) -> None:
    """Gives each empty cluster the row farthest from its centre, of a cluster that has more."""
    number = np.bincount(labels, minlength=clusters)
    for empty in np.flatnonzero(number == 0):
        row = np.where(number[labels] > 1, distance, -np.inf).argmax()
        number[labels[row]] -= 1
        labels[row], number[empty] = empty, 1
