"""Distillation: every task gets the term, the teacher stands still, nothing else changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.distil import EXTRA, HIDDEN, PART, Distillation, Distilled, own_state, rejoined
from cxr_jax.tasks.rot import Rotation
from cxr_jax.train import state as states
from cxr_jax.train.optim import OptimizerSettings, optimizer, rate_factor
from cxr_jax.train.step import make_observation, make_train_step
from data_pipelines.errors import UserError
from tests.numpy_layers import batch_norm
from tests.tasks.one_step import SIZE, facts, random_batch, tiny_encoder
from tests.tasks.test_every_task import resolved

RATE = 0.1


def one_device():
    return parallel.data_mesh(jax.devices()[:1])


@functools.cache
def parent(outputs: int = 4) -> dict:
    """What a stage has left: weights and running statistics of its own, and a linear head."""
    params, stats = tiny_encoder().init(jax.random.key(5), SIZE)
    rng = np.random.default_rng(5)
    stats = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.4, x.shape).astype(x.dtype), stats)
    kernel = rng.normal(size=(6, outputs)).astype(np.float32)
    head = {'linear': {'kernel': kernel, 'bias': np.zeros(outputs, np.float32)}}
    parts = {'encoder': {'params': params, 'batch_stats': stats}}
    return jax.device_get(parts | {'head': {'params': head, 'batch_stats': {}}})


def first_state(task, transform=None, key=0):
    transform = transform or optimizer(OptimizerSettings())
    return states.create(task, tiny_encoder(), transform, parent(), jax.random.key(key), RATE)


def train(task, batches: int = 1):
    """(state before, state after one step for each batch, metrics of the last), on the host."""
    transform, factor = optimizer(OptimizerSettings()), rate_factor(OptimizerSettings(), 8, 8)
    step = make_train_step(task, tiny_encoder(), transform, factor, one_device())
    before = jax.device_get(first_state(task, transform))
    state = parallel.replicate(one_device(), before)
    for seed in range(batches):
        rows = parallel.put_rows(one_device(), random_batch(task, seed))
        state, metrics = step(state, rows)[:2]
    return before, *jax.device_get((state, metrics))


@pytest.mark.parametrize('name', TASKS | READOUTS)
def test_every_task_can_be_distilled_into(name):
    """Its own loss beside the term; its own parts and extra as without one; the teacher as it was.

    The student's first features are far from the teacher's, which has other statistics.
    """
    task = Distilled(resolved(name), Distillation('features', weight=0.5))
    before, after, metrics = train(task)
    assert metrics['loss'] == pytest.approx(
        metrics['task_loss'] + 0.5 * metrics['distil_loss'], rel=1e-5
    )
    assert 1e-3 < metrics['distil_loss'] < 1
    assert jax.tree.structure(after) == jax.tree.structure(before)
    plain = states.create(
        task.task, tiny_encoder(), optimizer(OptimizerSettings()), parent(), jax.random.key(0), RATE
    )
    alone = own_state(before)
    assert trees.sha256(jax.device_get(plain)) == trees.sha256(alone)
    assert trees.sha256(rejoined(alone, before)) == trees.sha256(before)
    assert trees.sha256(after.extra[EXTRA]) == trees.sha256({'encoder': parent()['encoder']})
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, before.params)
    assert max(jax.tree.leaves(moved['encoder'])) > 0
