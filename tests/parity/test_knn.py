"""Nearest neighbours: votes in JAX against those of evaluation.probes in NumPy, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluation.probes import knn_scores
from cxr_jax.tasks.knn import NearestNeighbours, votes
from tests.parity import reference as ref

WIDTH, OUTPUTS, TEMPERATURE = 4, 3, 0.2


def drawn(seed, rows, exclusive):
    """(bank, labels of the bank, queries): among the images of the bank are equal ones."""
    rng = np.random.default_rng(seed)
    bank = rng.normal(size=(rows + 3, WIDTH))
    bank[-2:] = bank[0]
    labels = rng.integers(0, OUTPUTS, rows + 3)
    if not exclusive:
        labels = rng.integers(-1, 2, (rows + 3, OUTPUTS))
        labels[0] = 1  # something is known of each finding
    return bank, labels, np.concatenate([rng.normal(size=(rows, WIDTH)), 2 * bank[:1]])


@pytest.mark.parametrize('exclusive', [True, False])
def test_votes_parity(exclusive):
    with jax.enable_x64(True):
        compiled = jax.jit(votes, static_argnums=3)
        for seed, rows, width in ref.cases(100):
            bank, labels, queries = drawn(seed, rows, exclusive)
            k = min(width, len(bank))
            expected = knn_scores(bank, labels, queries, OUTPUTS, k, TEMPERATURE)
            known = labels[:, None] == np.arange(OUTPUTS) if exclusive else labels
            found = compiled(ref.unit(queries), ref.unit(bank), known.astype(float), k, TEMPERATURE)
            ref.assert_close(found, expected, f'seed {seed}')


@pytest.mark.parametrize('exclusive', [True, False])
def test_loss_is_of_the_votes_for_what_is_true(exclusive):
    task = NearestNeighbours(outputs=OUTPUTS, exclusive=exclusive)
    rng = np.random.default_rng(0)
    shares = rng.random((6, OUTPUTS))
    shares[0] = [1, 0, 0]  # nobody votes for the second and the third
    labels = rng.integers(0, OUTPUTS, 6) if exclusive else rng.integers(-1, 2, (6, OUTPUTS))
    labels[0] = 1
    with jax.enable_x64(True):
        loss, metrics, extra = ref.on_one_device(
            lambda shares, labels: task.objective(shares, labels, {}),
            jnp.asarray(shares), jnp.asarray(labels),
        )  # fmt: skip
    if exclusive:
        true = shares[np.arange(6), labels]
        right = shares.argmax(1) == labels
    else:
        known = labels >= 0
        true = np.where(labels == 1, shares, 1 - shares)[known]
        right = true > 0.5
    ref.assert_close(loss, -np.log(np.maximum(true, 1e-6)).mean())
    assert metrics['accuracy'] == pytest.approx(right.mean())
    assert extra == {}
