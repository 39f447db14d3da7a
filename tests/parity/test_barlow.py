"""Barlow Twins: the correlation over the global batch, and its distance from the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.barlow import BarlowTwins, barlow_twins_loss
from tests.parity import reference as ref
from tests.parity.two_views import ENCODER, mlp, pooled, random_state


def plain(z1, z2, lambd):
    """Entry by entry."""

    def standardised(z):
        deviations = [column - column.mean() for column in z.T]
        return [d / np.sqrt((d**2).mean() + 1e-5) for d in deviations]

    total = 0
    for i, a in enumerate(standardised(z1)):
        for j, b in enumerate(standardised(z2)):
            c = a @ b / len(z1)
            total = total + ((1 - c) ** 2 if i == j else lambd * c**2)
    return total


def test_loss():
    def draw(rng, batch, width):
        z1 = rng.normal(1, 2, (batch, width))
        z2 = 0.5 * z1 + rng.normal(size=(batch, width))
        return {'z1': z1, 'z2': z2, 'lambd': np.array(rng.random())}

    ref.assert_parity(barlow_twins_loss, plain, draw)


def test_the_golden_vector(golden):
    vectors = golden('barlow_twins')
    with jax.enable_x64(True):
        z1, z2 = jnp.asarray(vectors['z1']), jnp.asarray(vectors['z2'])
        lambd = float(vectors['lambd'])
        value, gradient = jax.value_and_grad(barlow_twins_loss)(z1, z2, lambd)
    ref.assert_close(value, vectors['loss'])
    ref.assert_close(gradient, vectors['grad_z1'])


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('widths', [(5,), (7, 5, 3)])
def test_the_whole_step(widths, devices):
    """Batch norm of each view apart, over all devices; one linear layer is a projector too."""
    task = BarlowTwins(projector=widths, lambd=0.3)
    state, views = random_state(task)
    norms = ['learnt'] * (len(widths) - 1) + ['']

    def embedded(params):
        return [mlp(pooled(params, x), params['projector'], norms) for x in views.values()]

    def loss(params):
        return plain(*embedded(params), 0.3)

    result = ref.assert_task_parity(task, ENCODER, state, views, loss, devices)
    on, off = result.metrics['invariance'], result.metrics['redundancy']
    ref.assert_close(on, plain(*embedded(state.params), 0.0))
    ref.assert_close(on + 0.3 * off, result.loss)
    for found, expected in zip(result.embeddings.values(), embedded(state.params), strict=True):
        ref.assert_close(found, expected)
