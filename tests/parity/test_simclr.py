"""SimCLR: each row is told from all others of the global batch, its own other view is positive."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.simclr import SimCLR, nt_xent
from tests.parity import reference as ref
from tests.parity.two_views import ENCODER, ROWS, mlp, pooled, random_state


def plain(z1, z2, temperature):
    """Row by row: the classes are the 2N - 1 other rows."""
    count, total = len(z1), 0
    rows = ref.unit(np.concatenate([z1, z2]))
    for i in range(2 * count):
        others = [j for j in range(2 * count) if j != i]
        similarities = (rows[others] @ rows[i]) / temperature
        total = total - ref.log_softmax(similarities)[others.index((i + count) % (2 * count))]
    return total / (2 * count)


def test_loss():
    def draw(rng, batch, width):
        rows = {name: rng.normal(size=(batch, width)) for name in ('z1', 'z2')}
        return rows | {'temperature': np.array(rng.uniform(0.1, 1))}

    ref.assert_parity(nt_xent, plain, draw)


def test_orthogonal_images():
    """Of N images of one direction each: one positive of similarity 1, 2N - 2 negatives of 0."""
    rows = jnp.eye(5)
    for shift, similarity in ((0, 1), (1, 0)):
        expected = np.log(np.exp(4.0) + 8) - 4 * similarity
        assert nt_xent(rows, jnp.roll(rows, shift, 0), 0.25) == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_one_has_nothing_to_tell_apart():
    assert nt_xent(jnp.ones((1, 3)), -jnp.ones((1, 3)), 0.1) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    """One pass, so one batch norm, over both views of all devices; one behind both layers."""
    task = SimCLR(hidden=5, features=3, temperature=0.3, images=ROWS)
    state, views = random_state(task)

    def embedded(params):
        images = np.concatenate([*views.values()])
        return np.split(mlp(pooled(params, images), params['projector'], ('learnt', 'learnt')), 2)

    result = ref.assert_task_parity(
        task, ENCODER, state, views, lambda params: plain(*embedded(params), 0.3), devices
    )
    for found, expected in zip(result.embeddings.values(), embedded(state.params), strict=True):
        ref.assert_close(found, expected)
