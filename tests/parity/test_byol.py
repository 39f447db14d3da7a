"""BYOL: the loss of both directions, its stopped gradients, the teacher and its momentum."""

import jax
import numpy as np
import pytest

from cxr_jax.tasks.byol import BYOL, byol_loss, momentum_at
from tests.parity import reference as ref
from tests.parity.two_views import ENCODER, cosine, mlp, pooled, random_state

TASK = BYOL(hidden=5, features=3, momentum=0.9, total_steps=20)
NORMS = ('learnt', '')


def plain(p1, p2, z1, z2):
    return -2 * cosine(p1, z2) - 2 * cosine(p2, z1)


def test_loss():
    def draw(rng, batch, width):
        return {name: rng.normal(size=(batch, width)) for name in ('p1', 'p2', 'z1', 'z2')}

    ref.assert_parity(byol_loss, plain, draw, stopped=('z1', 'z2'))


def test_momentum():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for _ in range(100):
            total, first = int(rng.integers(1, 2000)), rng.random()
            step = rng.integers(0, total + 1)
            expected = first + (1 - first) * np.sin(np.pi / 2 * step / total) ** 2
            ref.assert_close(momentum_at(step, total, first), expected)


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    """Each view's prediction against what the teacher makes of the other; afterwards the teacher
    follows the parameters as they are then, by the momentum of this step."""
    state, views = random_state(TASK)
    teacher = state.extra['teacher']
    z1, z2 = (mlp(pooled(teacher, x), teacher['projector'], NORMS) for x in views.values())

    def online(params):
        return [mlp(pooled(params, x), params['projector'], NORMS) for x in views.values()]

    def loss(params):
        return plain(*(mlp(x, params['predictor'], NORMS) for x in online(params)), z1, z2)

    result = ref.assert_task_parity(TASK, ENCODER, state, views, loss, devices)
    for found, expected in zip(result.embeddings.values(), online(state.params), strict=True):
        ref.assert_close(found, expected)
    jax.tree.map(ref.assert_close, result.extra, state.extra)
    with jax.enable_x64(True):
        params, extra = TASK.after_update(state.params, result.extra, state.step)
    momentum = 0.9 + 0.1 * np.sin(np.pi / 2 * 3 / 20) ** 2
    followed = {part: state.params[part] for part in ('encoder', 'projector')}
    expected = jax.tree.map(lambda t, p: momentum * t + (1 - momentum) * p, teacher, followed)
    jax.tree.map(ref.assert_close, extra, {'teacher': expected})
    assert params is state.params
