"""Every task takes images in colour; what it makes of them has their channels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.views.region import to_unit_range
from tests.tasks.one_step import CONTRACT, compiled_loss, first_state, random_batch, tiny_encoder
from tests.tasks.test_every_task import resolved

COLOUR = dataclasses.replace(CONTRACT, channels=3)
PIXELS = ('image', 'clean', 'first', 'second', 'query', 'key', 'patches', 'tiles', 'large', 'small')


def coloured(task) -> dict:
    batch = random_batch(task)
    grey = batch['image']
    return batch | {'image': np.concatenate([grey, grey[:, ::-1], grey[:, :, ::-1]], -1)}


@pytest.mark.parametrize('name', [*TASKS, *(n for n, t in READOUTS.items() if t.trains)])
def test_a_step_in_colour(name):
    """Shapes alone: nothing is compiled."""
    task, encoder = resolved(name), tiny_encoder(contract=COLOUR)
    batch = coloured(task)

    def views_of(batch):
        keys = jax.random.split(jax.random.key(0), len(batch['image']))
        return jax.vmap(task.views)(keys, batch | {'image': COLOUR.images(batch)})

    views = jax.eval_shape(views_of, batch)
    shown = {key: view.shape[-1] for key, view in views.items() if key in PIXELS}
    assert shown and set(shown.values()) == {3}
    state = jax.eval_shape(lambda: vars(first_state(task, encoder)))
    kernel = state['params']['encoder']['first_conv']['kernel']
    assert kernel.shape[2] == 3
    rest = {key: value for key, value in state.items() if key != 'params'}
    (loss, *_), _ = jax.eval_shape(compiled_loss(task, encoder), state['params'], rest, views)
    assert loss.shape == ()


def test_genesis_restores_every_channel():
    task, encoder = resolved('genesis'), tiny_encoder(contract=COLOUR)
    state = first_state(task, encoder)
    images = to_unit_range(jnp.asarray(coloured(task)['image']))
    model = state.params, state.batch_stats, {'clean': images, 'image': images[:, ::-1]}
    drawn = jax.jit(functools.partial(task.picture, encoder))(*model)
    assert {rows.shape[-1] for rows in drawn.values()} == {3}
    assert np.ptp(drawn['restored'], axis=-1).max() > 1e-3  # not one picture three times
