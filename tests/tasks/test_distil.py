"""Distillation: every task gets the term, the teacher stands still, nothing else changes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.tasks import READOUTS, TASKS
from cxr_jax.tasks.distil import EXTRA, PART, Distillation, Distilled, own_state
from cxr_jax.tasks.rot import Rotation
from cxr_jax.train import state as states
from cxr_jax.train.optim import OptimizerSettings, optimizer, rate_factor
from cxr_jax.train.step import make_observation, make_train_step
from tests.tasks.one_step import (
    SIZE,
    State,
    facts,
    make_views,
    random_batch,
    run_loss,
    tiny_encoder,
)
from tests.tasks.test_every_task import resolved

RATE, TRANSFORM = 0.1, optimizer(OptimizerSettings())


@functools.cache
def one_device():
    return parallel.data_mesh(jax.devices()[:1])


@functools.cache
def parent() -> dict:
    """What a stage has left: weights, running statistics that are not its batch's, a linear head
    of three answers."""
    params, stats = tiny_encoder().init(jax.random.key(5), SIZE)
    rng = np.random.default_rng(5)
    stats = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.4, x.shape).astype(x.dtype), stats)
    head = {'linear': {'kernel': rng.normal(size=(6, 3)), 'bias': rng.normal(size=3)}}
    parts = {
        'encoder': {'params': params, 'batch_stats': stats},
        'head': {'params': jax.tree.map(np.float32, head), 'batch_stats': {}},
    }
    return jax.device_get(parts)


def first_state(task, lr=RATE):
    state = states.create(task, tiny_encoder(), TRANSFORM, parent(), jax.random.key(0), lr)
    return jax.device_get(state)


def make_step(task, together=False):
    factor = rate_factor(OptimizerSettings(), 8, 8)
    return make_train_step(task, tiny_encoder(), TRANSFORM, factor, one_device(), together)


def placed(task, state, together=False):
    return parallel.place(one_device(), state, states.layout(task, state, together))


def train(task, batches: int = 1):
    """(state before, state after one step for each batch, metrics of the last), on the host."""
    step, before = make_step(task), first_state(task)
    state = placed(task, before)
    for seed in range(batches):
        rows = parallel.put_rows(one_device(), random_batch(task, seed))
        state, metrics, _ = step(state, rows)
    return before, *jax.device_get((state, metrics))


def trains_its_encoder(name) -> bool:
    return resolved(name).frozen(facts()).get('encoder', 0) is not None


@pytest.mark.parametrize('name', filter(trains_its_encoder, TASKS | READOUTS))
def test_every_task_can_be_distilled_into(name):
    """Its own loss beside the term; its own parts and extra as without one; the teacher as it was.

    The student's first features are not the teacher's, which normalises by other statistics.
    """
    own = resolved(name)
    if name == 'barlow':
        own = dataclasses.replace(own, projector=(8, 5))
    task = Distilled(own, Distillation('features', weight=0.5))
    before, after, metrics = train(task)
    total = metrics['task_loss'] + 0.5 * metrics['distil_loss']
    assert metrics['loss'] == pytest.approx(total, rel=1e-5)
    assert 1e-3 < metrics['distil_loss'] < 1
    assert jax.tree.structure(after) == jax.tree.structure(before)
    alone = own_state(before)
    assert trees.sha256(alone) == trees.sha256(first_state(task.task))
    assert trees.sha256(after.extra[EXTRA]) == trees.sha256({'encoder': parent()['encoder']})
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, before.params)
    assert max(jax.tree.leaves(moved['encoder'])) > 0


def losses(task, views):
    """What run_loss tells of a first state."""
    state = first_state(task)
    fields = ('params', 'batch_stats', 'extra', 'step')
    return run_loss(task, tiny_encoder(), State(**{k: getattr(state, k) for k in fields}), views)


def features_of(calls: list, train: bool) -> np.ndarray:
    """Pooled features of the images of each call [n, S, S, 1], by the parent's encoder."""
    part = parent()['encoder']

    def pooled(params, stats, images):
        return tiny_encoder()(params, stats, images, train=train).pooled

    compiled = parallel.sharded(pooled, one_device(), (False, False, True), True)
    return np.concatenate([compiled(part['params'], part['batch_stats'], x) for x in calls])


def crops_of(views) -> list:
    return [np.concatenate(np.swapaxes(views[name], 0, 1)) for name in ('large', 'small')]


# Task -> the images of each of its student's calls of the encoder: no teacher's, no key's.
STUDENT = {
    'rot': lambda views: [views['image'].reshape(-1, SIZE, SIZE, 1)],
    'moco': lambda views: [views['query']],
    'swav': crops_of,
}


@pytest.mark.parametrize('name', STUDENT)
def test_the_term_is_of_all_that_the_student_sees(name):
    """Its features with the statistics of the batch, the teacher's with those it was left with;
    they leave the task's loss, gradients and statistics as they are."""
    plain = resolved(name)
    if name == 'swav':  # calls of unlike size: two large crops, one small one
        plain = dataclasses.replace(plain, small_crops=1)
    views = jax.device_get(make_views(plain, random_batch(plain)))
    calls = STUDENT[name](views)
    student, teacher = features_of(calls, True), features_of(calls, False)
    lengths = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
    # Features of zeros, which six rectified channels may be, are like nothing.
    expected = (1 - (student * teacher).sum(1) / np.maximum(lengths, 1e-12)).mean()
    found = losses(Distilled(plain, Distillation('features', weight=0.0)), views)
    assert found.metrics['distil_loss'] == pytest.approx(expected, rel=1e-4)
    alone = losses(plain, views)
    assert found.metrics['task_loss'] == pytest.approx(alone.loss, rel=1e-6)
    for field in ('gradients', 'batch_stats'):
        leaves = [jax.tree.leaves(getattr(each, field)) for each in (found, alone)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_head_that_was_left_goes_on_and_its_teacher_stands_still():
    task = Distilled(resolved('rot'), Distillation('lwf'))
    before, after, _ = train(task, 3)
    assert trees.sha256(before.params[PART]) == trees.sha256(parent()['head']['params'])
    assert trees.sha256(after.extra[EXTRA]) == trees.sha256(parent())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params[PART], before.params[PART])
    assert min(jax.tree.leaves(moved)) > 1e-5
    assert PART not in task.leaves and PART not in task.takes


def test_several_rates_train_together_as_alone():
    """The predictor, its statistics and the teacher are stacked like the rest."""
    task, rates = Distilled(resolved('rot'), Distillation('cassle')), (0.1, 0.02)
    rows = parallel.put_rows(one_device(), random_batch(task))
    stacked = states.stack([first_state(task, rate) for rate in rates])
    found, metrics, _ = make_step(task, True)(placed(task, stacked, True), rows)
    step = make_step(task)
    for number, rate in enumerate(rates):
        alone, of_one, _ = jax.device_get(step(placed(task, first_state(task, rate)), rows))
        one = states.unstack(jax.device_get(found), number)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert metrics['distil_loss'][number] == pytest.approx(of_one['distil_loss'], rel=1e-5)
    assert np.any(found.batch_stats[PART]['bn1']['mean'])


def test_a_stage_is_judged_by_its_own_loss():
    """What an observation tells is the same with and without a teacher in the state."""
    task = Distilled(resolved('moco'), Distillation('cassle'))
    observe = make_observation(task.task, tiny_encoder(), one_device(), 0)
    rows, state = parallel.put_rows(one_device(), random_batch(task)), first_state(task)
    told = [
        jax.device_get(observe(placed(task, each), rows, np.uint32(0)))
        for each in (state, own_state(state))
    ]
    for a, b in zip(*map(jax.tree.leaves, told), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_encoder_that_is_not_trained_is_refused():
    class Frozen(Rotation):
        def loss(self, encoder, params, *rest):
            still = jax.lax.stop_gradient(params['encoder'])
            return super().loss(encoder, params | {'encoder': still}, *rest)

    task = Frozen(image_size=SIZE)
    views = make_views(task, random_batch(task))
    with pytest.raises(ValueError, match='Frozen has not called the encoder'):
        losses(Distilled(task, Distillation('features')), views)
