import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cxr_jax.train.optim import descend, optimizer, rate_factor

SETTINGS = {
    'name': 'sgd',
    'momentum': 0.9,
    'weight_decay': 0.01,
    'head_weight_decay': 0.01,
    'nesterov': False,
    'trust': 0.001,
    'schedule': 'constant',
    'by_epoch': False,
    'final_factor': 0.01,
    'warmup_epochs': 0.0,
    'warmup_ratio': 0.0,
    'milestones': (0.5,),
    'step_factor': 0.1,
}


def config(**changes):
    return ConfigDict(SETTINGS | changes)


@pytest.mark.parametrize('name', ['sgd', 'sgd_nesterov', 'lars_swav'])
def test_three_steps_agree_with_reference(golden, name):
    vectors = golden(name)
    settings = config(name='lars' if 'lars' in name else 'sgd', nesterov='nesterov' in name)
    transform = optimizer(settings)
    with jax.enable_x64(True):
        params = {k: jnp.asarray(vectors[f'p0_{k}']) for k in 'wb'}
        state = transform.init(params)
        for i in range(3):
            grads = {k: jnp.asarray(vectors[f'g{i}_{k}']) for k in 'wb'}
            updates, state = transform.update(grads, state, params)
            params = descend(params, updates, vectors['lrs'][i])
            for k in 'wb':
                np.testing.assert_allclose(params[k], vectors[f'p{i + 1}_{k}'], atol=1e-6)


def test_the_heads_decay_is_its_own():
    """SGD's first update is gradient + decay · weight, LARS's scale with it, entry by entry."""
    params = {'backbone': jnp.full(3, 2.0), 'head': jnp.full(3, 2.0)}
    grads = jax.tree.map(jnp.ones_like, params)
    for name, first in (('sgd', lambda g: g), ('lars', lambda g: 0.001 * 2 / g * g)):
        transform = optimizer(config(name=name, head_weight_decay=0.5))
        updates, _ = transform.update(grads, transform.init(params), params)
        for part, decay in (('backbone', 0.01), ('head', 0.5)):
            np.testing.assert_allclose(updates[part], first(1 + decay * 2), rtol=1e-5)


def test_frozen_parameters_do_not_move_at_all():
    """Neither by gradient, decay nor momentum; then exactly as if training began there."""
    transform = optimizer(config(), frozen={'prototypes': 2})
    plain = optimizer(config())
    params = {'backbone': jnp.ones(3), 'head': {'prototypes': jnp.ones(3), 'other': jnp.ones(3)}}
    start, state = params, transform.init(params)
    grads = jax.tree.map(lambda p: p * jnp.arange(1.0, 4.0), params)
    for _ in range(2):
        updates, state = transform.update(grads, state, params)
        params = descend(params, updates, 0.1)
    np.testing.assert_array_equal(params['head']['prototypes'], start['head']['prototypes'])
    assert np.all(params['head']['other'] < 1) and np.all(params['backbone'] < 1)
    updates, _ = transform.update(grads, state, params)
    first, _ = plain.update(grads, plain.init(start), start)
    np.testing.assert_allclose(updates['head']['prototypes'], first['head']['prototypes'])


def test_warmup_cosine_agrees_with_reference(golden):
    vectors = golden('warmup_cosine')
    schedule = rate_factor(config(schedule='cosine', warmup_epochs=1.0), 100, 10)
    np.testing.assert_allclose([0.3 * schedule(i) for i in range(100)], vectors['lr'], rtol=1e-5)


def test_warmup_from_a_ratio_is_mmcvs():
    """regular rate · (1 - (1 - i / W)(1 - ratio)), reference facts 13.1."""
    changes = {'warmup_epochs': 2.0, 'warmup_ratio': 0.1, 'schedule': 'step', 'milestones': (0.75,)}
    schedule = rate_factor(config(**changes), 40, 10)
    expected = [0.3 * (1 - (1 - min(i / 20, 1)) * 0.9) for i in range(30)] + [0.03] * 10
    np.testing.assert_allclose([0.3 * schedule(i) for i in range(40)], expected, rtol=1e-5)


def test_cosine_by_epoch_is_mmcvs():
    schedule = rate_factor(config(schedule='cosine', by_epoch=True, final_factor=0.001), 50, 10)
    low = 0.3 * 0.001
    expected = [low + 0.5 * (0.3 - low) * (1 + np.cos(np.pi * e / 5)) for e in range(5)]
    rates = [0.3 * schedule(i) for i in range(50)]
    np.testing.assert_allclose(rates, np.repeat(expected, 10), rtol=1e-5)


def test_step_schedule_drops_at_whole_epochs_of_the_reference():
    """MMSelfSup's 30 and 50 of 70 epochs, at a number of steps whose share is not exact."""
    schedule = jax.jit(
        rate_factor(config(schedule='step', milestones=(30 / 70, 50 / 70)), 70 * 7, 7)
    )
    rates = [0.3 * float(schedule(i)) for i in range(70 * 7)]
    np.testing.assert_allclose(rates, np.repeat([0.3, 0.03, 0.003], [210, 140, 140]), rtol=1e-5)


def test_step_schedule_changes_at_milestones():
    schedule = rate_factor(config(schedule='step', milestones=(0.5, 0.8)), 10, 1)
    expected = [0.3] * 5 + [0.03] * 3 + [0.003] * 2
    np.testing.assert_allclose([0.3 * schedule(i) for i in range(10)], expected, rtol=1e-5)
