"""SimSiam: the loss of both directions and its stopped gradients."""

import numpy as np
import pytest

from cxr_jax.tasks.simsiam import SimSiam, simsiam_loss
from tests.parity import reference as ref
from tests.parity.two_views import ENCODER, cosine, mlp, pooled, random_state

TASK = SimSiam(features=4, waist=3)


def plain(p1, p2, z1, z2):
    return -(cosine(p1, z2) + cosine(p2, z1)) / 2


def test_loss():
    def draw(rng, batch, width):
        return {name: rng.normal(size=(batch, width)) for name in ('p1', 'p2', 'z1', 'z2')}

    ref.assert_parity(simsiam_loss, plain, draw, stopped=('z1', 'z2'))


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    """The embeddings are constants of the gradient as targets, and not as what is predicted from;
    the projector's last batch norm has no scale and shift."""
    state, views = random_state(TASK)

    def embedded(params):
        norms = ('learnt', 'learnt', 'plain')
        return [mlp(pooled(params, x), params['projector'], norms) for x in views.values()]

    targets = embedded(state.params)

    def loss(params):
        predictions = (mlp(z, params['predictor'], ('learnt', '')) for z in embedded(params))
        return plain(*predictions, *targets)

    result = ref.assert_task_parity(TASK, ENCODER, state, views, loss, devices)
    for found, expected in zip(result.embeddings.values(), targets, strict=True):
        ref.assert_close(found, expected)
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
