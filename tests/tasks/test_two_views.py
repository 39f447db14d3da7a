"""Barlow Twins, BYOL, SimSiam and SimCLR: views, heads, teacher and rates beside their losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cxr_jax.runtime import parallel
from cxr_jax.tasks.barlow import BarlowTwins
from cxr_jax.tasks.byol import BYOL
from cxr_jax.tasks.simclr import SimCLR
from cxr_jax.tasks.simsiam import SimSiam
from cxr_jax.train import state as states
from cxr_jax.train.optim import OptimizerSettings, optimizer
from cxr_jax.train.step import make_train_step
from cxr_jax.views import intensity
from data_pipelines.errors import UserError
from tests.tasks.one_step import SIZE, facts, first_state, random_batch, tiny_encoder


def shapes(tree):
    return jax.tree.map(lambda x: x.shape, tree)


def test_layers_of_the_heads():
    """By the papers: which layers have a bias, a batch norm, and a scale and shift in it."""

    def layers(task):
        return shapes(first_state(task, tiny_encoder()).params)

    def linear(inputs, width):
        return {'kernel': (inputs, width)}

    def norm(width):
        return {'scale': (width,), 'bias': (width,)}

    barlow = layers(BarlowTwins(image_size=SIZE, projector=(5, 4)))
    assert barlow['projector'] == {
        'linear1': linear(6, 5), 'bn1': norm(5), 'linear2': linear(5, 4),
    }  # fmt: skip
    one = layers(BarlowTwins(image_size=SIZE, projector=(4,)))
    assert one['projector'] == {'linear1': linear(6, 4)}
    byol = layers(BYOL(image_size=SIZE, hidden=5, features=3))
    for part, inputs in (('projector', 6), ('predictor', 3)):
        assert byol[part] == {
            'linear1': linear(inputs, 5), 'bn1': norm(5), 'linear2': linear(5, 3),
        }  # fmt: skip
    simsiam = layers(SimSiam(image_size=SIZE, features=5, waist=2))
    assert simsiam['projector'] == {
        'linear1': linear(6, 5), 'bn1': norm(5), 'linear2': linear(5, 5), 'bn2': norm(5),
        'linear3': linear(5, 5),
    }  # fmt: skip
    assert simsiam['predictor'] == {
        'linear1': linear(5, 2) | {'bias': (2,)}, 'bn1': norm(2),
        'linear2': linear(2, 5) | {'bias': (5,)},
    }  # fmt: skip
    simclr = layers(SimCLR(image_size=SIZE, hidden=5, features=3))
    assert simclr['projector'] == {
        'linear1': linear(6, 5), 'bn1': norm(5), 'linear2': linear(5, 3), 'bn2': norm(3),
    }  # fmt: skip


def test_a_projector_without_layers_is_refused():
    with pytest.raises(UserError, match='has no layer'):
        BarlowTwins(projector=()).resolve(facts())


@pytest.mark.parametrize('kind', [BarlowTwins, BYOL])
def test_only_the_second_view_is_solarised_and_rarely_blurred(monkeypatch, kind):
    monkeypatch.setattr(intensity, 'gaussian_blur', lambda image, sigma: image + 10)
    monkeypatch.setattr(intensity, 'solarize', lambda image: image + 100)
    task = dataclasses.replace(kind(), image_size=4)
    keys = jax.random.split(jax.random.key(0), 2000)
    views = jax.jit(jax.vmap(lambda key: task.views(key, {'image': jnp.zeros((6, 6, 1))})))(keys)
    shares = {}
    for view, images in views.items():
        hundreds, rest = np.divmod(np.asarray(images)[:, 0, 0, 0], 100)
        shares[view] = int((hundreds == 1).sum()), int((rest >= 10).sum())
    assert shares['first'] == (0, 2000)
    for count, probability in zip(shares['second'], (0.2, 0.1), strict=True):
        assert stats.binomtest(count, 2000, probability).pvalue > 1e-3


def test_the_two_views_are_drawn_apart():
    image = jnp.asarray(np.random.default_rng(0).random((SIZE, SIZE, 1), np.float32))
    views = SimSiam(image_size=12).views(jax.random.key(0), {'image': image})
    assert views['first'].shape == views['second'].shape == (12, 12, 1)
    assert abs(views['first'] - views['second']).max() > 0.05


@pytest.mark.parametrize(('step', 'momentum'), [(0, 0.9), (8, 0.95), (16, 1.0)])
def test_byols_teacher_by_the_steps_of_the_whole_stage(step, momentum):
    """16 steps in all: it follows by 0.1 at first, by 0.05 half-way and no more at the end."""
    task, _ = BYOL(momentum=0.9).resolve(facts(total_steps=16))
    params = {part: np.full(2, 3.0) for part in ('encoder', 'projector', 'predictor')}
    teacher = {part: np.full(2, 1.0) for part in ('encoder', 'projector')}
    after, extra = task.after_update(params, {'teacher': teacher}, step)
    assert after is params and extra['teacher'].keys() == teacher.keys()
    for tree in extra['teacher'].values():
        np.testing.assert_allclose(tree, 1 + 2 * (1 - momentum), rtol=1e-6)


def test_byols_teacher_starts_as_the_online_network():
    state = first_state(BYOL(image_size=SIZE, hidden=5, features=3), tiny_encoder())
    assert state.extra.keys() == {'teacher'}  # no statistics: nothing reads them
    for part, tree in state.extra['teacher'].items():
        jax.tree.map(np.testing.assert_array_equal, tree, state.params[part])


def test_simsiams_predictor_keeps_its_rate():
    """A schedule that has come to nothing moves nothing but the predictor."""
    task, encoder = SimSiam(image_size=12, features=4, waist=2), tiny_encoder()
    params, batch_stats = encoder.init(jax.random.key(0), 12)
    parts = {'encoder': {'params': params, 'batch_stats': batch_stats}}
    transform = optimizer(OptimizerSettings(), {}, task.rules)
    mesh = parallel.data_mesh(jax.devices()[:1])
    step = make_train_step(task, encoder, transform, lambda step: 0.0 * step, mesh)
    state = states.create(task, encoder, transform, parts, jax.random.key(1), 0.1)
    before = jax.device_get(state.params)
    after, *_ = step(parallel.replicate(mesh, state), random_batch(task))
    for part, tree in jax.device_get(after.params).items():
        same = [np.array_equal(a, b) for a, b in zip(
            jax.tree.leaves(tree), jax.tree.leaves(before[part]), strict=True
        )]  # fmt: skip
        assert not any(same) if part == 'predictor' else all(same), part


def test_simclrs_chance_counts_both_views_of_the_global_batch():
    task, _ = SimCLR().resolve(facts(batch_size=4, devices=2))
    assert task.chance_loss() == pytest.approx(np.log(7))
