"""A real collapse: SimSiam without its stop-gradient, in a network small enough to train here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluation import alarms
from cxr_jax.evaluation.health import health
from cxr_jax.tasks import simsiam
from cxr_jax.train.optim import descend
from tests.tasks.one_step import CONTRACT, SIZE, compiled_loss, facts, first_state, tiny_encoder

STEPS, IMAGES, BATCH, RATE, MOMENTUM = 200, 64, 32, 1.0, 0.9


@functools.partial(jax.jit, donate_argnums=(0, 1))
def descended(params, velocity, gradients):
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
    return descend(params, velocity, RATE), velocity


def looks(until):
    """Rows of health every twentieth of STEPS, up to step `until`."""
    task = simsiam.SimSiam(image_size=SIZE, features=32, waist=8).resolve(facts())[0]
    encoder = tiny_encoder()
    state, rng, rows = first_state(task, encoder), np.random.default_rng(0), []
    # Coarse patterns, which small crops still show.
    patterns = rng.integers(0, 256, (IMAGES, 6, 6, 1)).repeat(4, 1).repeat(4, 2)
    images = CONTRACT.images({'image': jnp.asarray(patterns.astype(np.uint8))})
    draw = jax.jit(jax.vmap(task.views))
    step = compiled_loss.__wrapped__(task, encoder)  # not one that is planted otherwise
    params, stats = state.params, state.batch_stats
    velocity = jax.tree.map(jnp.zeros_like, params)
    for number in range(1, until + 1):
        chosen = images[rng.permutation(IMAGES)[:BATCH]]
        views = draw(jax.random.split(jax.random.key(number), BATCH), {'image': chosen})
        rest = {'batch_stats': stats, 'extra': {}, 'step': number}
        (loss, gradients, stats, *_), embeddings = step(params, rest, views)
        if number == 1 or number % (STEPS // 20) == 0:
            rows.append({'step': number, 'loss': float(loss)} | health(dict(embeddings), {}))
            rows[-1]['alarms'] = alarms.judge(rows, STEPS, task.chance_loss())
        params, velocity = descended(params, velocity, gradients)
    return rows


@pytest.mark.parametrize('planted', [True, False])
def test_simsiam_without_its_stop_gradient_is_called_within_a_fifth(planted, monkeypatch):
    if planted:
        monkeypatch.setattr(simsiam, 'stop_gradient', lambda x: x)
    rows = looks(STEPS // 5)
    assert rows[-1]['alarms'] == (['shrunk'] if planted else [])
    # The loss alone looks better, the worse it gets.
    assert (rows[-1]['loss'] < -0.6) == planted
