import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax.store import trees
from cxr_jax.store.identity import active
from cxr_jax.store.settings import from_settings, to_settings
from cxr_jax.train.groups import Group, assign
from cxr_jax.train.optim import OptimizerSettings, descend, groups_of, optimizer, rate_factor
from data_pipelines.errors import UserError

BASE = OptimizerSettings(
    weight_decay=0.01, head_weight_decay=0.01, schedule='constant', final_factor=0.01
)


def settings(**changes):
    return dataclasses.replace(BASE, **changes)


def make_params(seed=0):
    """Of an encoder and two parts behind it, of one and more dimensions."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape))

    return {
        'encoder': {'conv1': {'kernel': normal(2, 2, 1, 3)}, 'bn1': {'scale': normal(3)}},
        'projector': {'kernel': normal(3, 2), 'bias': normal(2)},
        'prototypes': {'kernel': normal(2, 4)},
    }


def steps_of(transform, params, grads, rates):
    """Parameters after each step."""
    state, found = transform.init(params), []
    for gradient, rate in zip(grads, rates, strict=True):
        updates, state = transform.update(gradient, state, params)
        params = descend(params, updates, rate)
        found.append(params)
    return found


def lars_step(w, g, mu, momentum, decay, eta, excluded):
    """The official Barlow Twins' (main.py, LARS.step) in its own order."""
    dp = g if excluded else g + decay * w
    if not excluded:
        w_norm, norm = np.linalg.norm(w), np.linalg.norm(dp)
        dp = dp * (eta * w_norm / norm if w_norm > 0 and norm > 0 else 1)
    return momentum * mu + dp


def test_lars_with_a_rate_for_1d(golden):
    """Barlow Twins: 0.2 for weights, 0.0048 for biases; a weight at zero takes the whole step."""
    changes = {'name': 'lars', 'decay_1d': False, 'trust_1d': False, 'rate_1d': 0.024}
    with jax.enable_x64(True):
        params = make_params()
        params['prototypes']['kernel'] = jnp.zeros((2, 4))
        grads = [make_params(seed) for seed in (1, 2, 3)]
        rates = [0.2, 0.1, 0.3]
        found = steps_of(optimizer(settings(**changes)), params, grads, rates)
    paths = jax.tree_util.tree_leaves_with_path(params)
    for path, w in paths:
        w, mu = np.asarray(w), 0.0
        for i, rate in enumerate(rates):
            g = np.asarray(dict(jax.tree_util.tree_leaves_with_path(grads[i]))[path])
            mu = lars_step(w, g, mu, 0.9, 0.01, 0.001, w.ndim == 1)
            w = w - rate * (0.024 if w.ndim == 1 else 1.0) * mu
            own = dict(jax.tree_util.tree_leaves_with_path(found[i]))[path]
            np.testing.assert_allclose(own, w, rtol=1e-12, err_msg=str(path))


def test_the_two_kinds_of_lars_differ_where_a_norm_is_zero_and_in_the_norm():
    """larc: |g| + wd·|w|, and no decay at a zero gradient; lars: |g + wd·w|, and decay."""
    w, g = np.array([3.0, 4.0]), np.array([4.0, -3.0])
    for name, expected, at_rest in (
        ('larc', 0.001 * 5 / (5 + 0.5 * 5) * (g + 0.5 * w), 0 * w),
        ('lars', 0.001 * 5 / np.hypot(5, 2.5) * (g + 0.5 * w), 0.001 * 5 / 2.5 * 0.5 * w),
    ):
        transform = optimizer(settings(name=name, weight_decay=0.5))
        params = {'encoder': jnp.asarray(w)}
        for gradient, update in ((g, expected), (0 * g, at_rest)):
            found, _ = transform.update(
                {'encoder': jnp.asarray(gradient)}, transform.init(params), params
            )
            np.testing.assert_allclose(found['encoder'], update, rtol=1e-5)


def test_the_decay_of_the_other_parts_is_their_own():
    """SGD's first update is gradient + decay · weight, LARC's scales with it, part by part."""
    params = {'encoder': jnp.full(3, 2.0), 'head': jnp.full(3, 2.0)}
    grads = jax.tree.map(jnp.ones_like, params)
    for name, first in (('sgd', lambda g: g), ('larc', lambda g: 0.001 * 2 / g * g)):
        transform = optimizer(settings(name=name, head_weight_decay=0.5))
        updates, _ = transform.update(grads, transform.init(params), params)
        for part, decay in (('encoder', 0.01), ('head', 0.5)):
            np.testing.assert_allclose(updates[part], first(1 + decay * 2), rtol=1e-5)


@pytest.mark.parametrize('name', ['sgd', 'larc', 'lars', 'adamw'])
@pytest.mark.parametrize('clip', [0.0, 0.5])
def test_frozen_parameters_do_not_move_at_all(name, clip):
    """Neither by gradient, decay nor momentum; then exactly as if training began there."""
    s = settings(name=name, clip=clip)
    transform, plain = optimizer(s, {'prototypes': 2, 'encoder/conv1': None}), optimizer(s)
    start = params = make_params()
    state = transform.init(params)
    for seed in (1, 2):
        updates, state = transform.update(make_params(seed), state, params)
        params = descend(params, updates, 0.1)
        np.testing.assert_array_equal(params['prototypes']['kernel'], start['prototypes']['kernel'])
    assert np.all(params['projector']['kernel'] != start['projector']['kernel'])
    assert np.all(params['encoder']['bn1']['scale'] != start['encoder']['bn1']['scale'])
    grads = make_params(3)
    updates, state = transform.update(grads, state, params)
    # What never moves does not count in the norm that is clipped.
    grads['encoder']['conv1']['kernel'] = jnp.zeros((2, 2, 1, 3))
    first, _ = plain.update(grads, plain.init(start), start)
    np.testing.assert_allclose(
        updates['prototypes']['kernel'], first['prototypes']['kernel'], rtol=1e-6
    )
    params = descend(params, updates, 0.1)
    np.testing.assert_array_equal(
        params['encoder']['conv1']['kernel'], start['encoder']['conv1']['kernel']
    )


def test_a_name_to_freeze_that_nothing_has():
    transform = optimizer(settings(), {'prototype': 2})
    with pytest.raises(UserError, match='prototype.*encoder/bn1, encoder/conv1, projector, protot'):
        transform.init(make_params())


def test_clipping_comes_first():
    """The whole gradient to a norm; then decay and momentum as ever. A small one stays as it is."""
    params, grads = make_params(), make_params(1)
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads)))
    plain = optimizer(settings())
    for clip in (norm / 4, norm * 4):
        transform = optimizer(settings(clip=clip))
        updates, _ = transform.update(grads, transform.init(params), params)
        scaled = optax.tree.scale(min(clip / norm, 1), grads)
        expected, _ = plain.update(scaled, plain.init(params), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def test_the_first_group_that_matches_counts():
    """Alone, with all its values; the pattern is of the whole name."""
    groups = (
        Group('encoder/conv1', decay=9.0),  # matches nothing: no whole name
        Group('.*bias', decay=1.0, rate=0.5),
        Group('encoder/.*', one_dimensional=True, trust=False),
        Group('encoder/.*', decay=2.0),
        Group('.*', one_dimensional=False, decay=3.0),
    )
    own = assign(make_params(), groups)
    assert {name: groups.index(group) for name, group in own.items()} == {
        'encoder/bn1/scale': 2,
        'encoder/conv1/kernel': 3,
        'projector/bias': 1,
        'projector/kernel': 4,
        'prototypes/kernel': 4,
    }
    with pytest.raises(ValueError, match='projector/bias'):
        assign(make_params(), (groups[3], groups[4]))


def test_the_groups_of_settings():
    s = settings(
        weight_decay=0.1, head_weight_decay=0.2, decay_1d=False, trust_1d=False, rate_1d=0.5
    )
    own = assign(make_params(), groups_of(s, {'encoder/conv1': 7, 'prototypes': None}))
    told = {name: (g.decay, g.trust, g.rate, g.first_step, g.frozen) for name, g in own.items()}
    assert told == {
        'encoder/bn1/scale': (0.0, False, 0.5, 0, False),
        'encoder/conv1/kernel': (0.1, True, 1.0, 7, False),
        'projector/bias': (0.0, False, 0.5, 0, False),
        'projector/kernel': (0.2, True, 1.0, 0, False),
        'prototypes/kernel': (0.2, True, 1.0, 0, True),
    }
    # 'encoder10' is not in 'encoder1'.
    params = {'encoder1': jnp.ones((1, 1)), 'encoder10': jnp.ones((1, 1))}
    own = assign(params, groups_of(s, {'encoder1': 3}))
    assert (own['encoder1'].first_step, own['encoder10'].first_step) == (3, 0)


def test_a_part_without_momentum():
    """Its updates are those of plain gradient descent, the others' those with a buffer."""
    s, params = settings(weight_decay=0.0, head_weight_decay=0.0, momentum=0.9), make_params()
    transform = optimizer(s, rules={'projector': {'momentum': False}})
    state, ones = transform.init(params), jax.tree.map(jnp.ones_like, params)
    for step in range(3):
        updates, state = transform.update(ones, state, params)
        for name, update in trees.by_name(updates).items():
            moving = sum(0.9**k for k in range(step + 1))
            expected = 1.0 if name.startswith('projector/') else moving
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)


def test_what_is_not_known_is_an_error():
    with pytest.raises(UserError, match='name=adam is not known.*adamw'):
        optimizer(settings(name='adam'))
    with pytest.raises(UserError, match='schedule=linear is not known.*cosine'):
        rate_factor(settings(schedule='linear'), 10, 1)
    for name, value in (
        ('name', 'adam'), ('schedule', 'linear'), ('lr', -1), ('lr', float('nan')),
        ('momentum', 1.0), ('weight_decay', -1e-4), ('trust', 0), ('milestones', (2, -1)),
        ('clip', -1), ('b2', 1.0), ('eps', 0.0), ('warmup_epochs', float('inf')),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf'optimizer\.{name}={re.escape(str(value))}'):
            from_settings(OptimizerSettings(), {name: value}, 'stage.rot.optimizer')
    assert from_settings(OptimizerSettings(), to_settings(BASE), 'optimizer') == BASE


EVERYTHING = {
    'momentum': 0.5, 'nesterov': True, 'weight_decay': 0.3, 'head_weight_decay': 0.4, 'trust': 0.1,
    'by_epoch': True, 'final_factor': 0.5, 'milestones': (0.25,), 'step_factor': 0.7,
    'warmup_epochs': 1.0, 'warmup_ratio': 0.3, 'b1': 0.5, 'b2': 0.6, 'eps': 0.1, 'clip': 0.1,
    'decay_1d': False, 'trust_1d': False, 'rate_1d': 0.5,
}  # fmt: skip


def trajectory(s):
    params, grads = make_params(), [make_params(seed) for seed in range(1, 5)]
    factor = rate_factor(s, 4, 2)
    found = steps_of(optimizer(s), params, grads, [0.1 * factor(i) for i in range(4)])
    return b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(found))


@pytest.mark.parametrize('name', ['sgd', 'lars', 'larc', 'adamw'])
@pytest.mark.parametrize('schedule', ['cosine', 'step', 'constant'])
def test_a_field_is_inactive_just_when_it_changes_nothing(name, schedule):
    base = OptimizerSettings(name=name, schedule=schedule, warmup_epochs=0.5)
    own = trajectory(base)
    for field, value in EVERYTHING.items():
        changed = dataclasses.replace(base, **{field: value})
        assert (trajectory(changed) == own) == (field in base.inactive()), field


def test_more_that_is_inactive():
    assert 'warmup_ratio' in OptimizerSettings().inactive()
    assert 'nesterov' in OptimizerSettings(momentum=0.0).inactive()
    assert 'decay_1d' in OptimizerSettings(weight_decay=0.0, head_weight_decay=0.0).inactive()
    # What a plain SGD's key is made of: a field that is added must have a neutral default.
    assert active(OptimizerSettings(schedule='constant')) == {
        'name': 'sgd', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 1e-4, 'head_weight_decay': 1e-4,
        'schedule': 'constant',
    }  # fmt: skip
