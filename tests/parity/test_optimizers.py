"""Every optimiser over several steps against NumPy in float64: groups, rules and first steps."""

import dataclasses

import jax
import numpy as np
import pytest

from cxr_jax.train.optim import OptimizerSettings, descend, optimizer
from tests.parity import reference as ref

STEPS = 5
FIELDS = {
    'momentum': 0.8, 'weight_decay': 0.01, 'head_weight_decay': 0.03, 'trust': 0.02, 'b1': 0.8,
    'b2': 0.97, 'eps': 1e-3,
}  # fmt: skip
# Official Barlow Twins: biases neither decay nor are scaled, and move at a rate of their own.
EXCLUDED = {'decay_1d': False, 'trust_1d': False, 'rate_1d': 0.024}


def random_tree(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    kernel, scale = rng.normal(size=(2, 2, 1, 3)), rng.normal(size=3)
    return {
        'encoder': {'conv': {'kernel': kernel}, 'bn': {'scale': scale}},
        'projector': {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)},
        'prototypes': {'kernel': rng.normal(size=(2, 4))},
    }


def one_parameter(s: OptimizerSettings, part: str, w, grads, rates, keeps_momentum=True, first=0):
    """A parameter after every step, as the papers write it."""
    flat = w.ndim <= 1
    decay = s.weight_decay if part == 'encoder' else s.head_weight_decay
    decay = 0.0 if flat and not s.decay_1d else decay
    trusted = s.trust_1d or not flat
    share = s.rate_1d if flat else 1.0
    buffer, square, found = np.zeros_like(w), np.zeros_like(w), []
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True)):
        if t < first:
            found.append(w)
            continue
        if s.name == 'adamw':
            n = t - first + 1
            buffer = s.b1 * buffer + (1 - s.b1) * g
            square = s.b2 * square + (1 - s.b2) * g * g
            root = np.sqrt(square / (1 - s.b2**n)) + s.eps
            update = buffer / (1 - s.b1**n) / root + decay * w
        else:
            g = g + decay * w
            if trusted and s.name == 'lars':
                g = g * s.trust * np.linalg.norm(w) / np.linalg.norm(g)
            if trusted and s.name == 'larc':
                raw = grads[t]
                bottom = np.linalg.norm(raw) + decay * np.linalg.norm(w) + 1e-8
                g = g * s.trust * np.linalg.norm(w) / bottom
            momentum = s.momentum if keeps_momentum else 0.0
            buffer = momentum * buffer + g
            update = g + momentum * buffer if s.nesterov and keeps_momentum else buffer
        w = w - rate * share * update
        found.append(w)
    return found


def steps_of(transform, params, grads, rates) -> list:
    """Parameters after every step."""

    def step(params, state, gradient, rate):
        updates, state = transform.update(gradient, state, params)
        return descend(params, updates, rate), state

    step, state, found = jax.jit(step), transform.init(params), []
    for gradient, rate in zip(grads, rates, strict=True):
        params, state = step(params, state, gradient, rate)
        found.append(jax.device_get(params))
    return found


@pytest.mark.parametrize('excluded', [False, True])
@pytest.mark.parametrize(
    ('name', 'nesterov'),
    [('sgd', False), ('sgd', True), ('larc', False), ('lars', False), ('lars', True),
     ('adamw', False)],
)  # fmt: skip
def test_every_optimizer(name, nesterov, excluded):
    """With a part that begins later, and one that keeps no momentum."""
    changes = {'name': name, 'nesterov': nesterov} | (EXCLUDED if excluded else {})
    s = dataclasses.replace(OptimizerSettings(**FIELDS), **changes)
    rates = [0.3, 0.2, 0.5, 0.1, 0.4]
    params, grads = random_tree(0), [random_tree(1 + i) for i in range(STEPS)]
    rules = {'projector': {'momentum': False}} if excluded else {}
    with jax.enable_x64(True):
        found = steps_of(optimizer(s, {'prototypes': 2}, rules), params, grads, rates)
    for number, (path, w) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        part = path[0].key
        expected = one_parameter(
            s, part, w, [jax.tree.leaves(g)[number] for g in grads], rates,
            keeps_momentum=part not in rules, first=2 if part == 'prototypes' else 0,
        )  # fmt: skip
        for step in range(STEPS):
            own = jax.tree.leaves(found[step])[number]
            ref.assert_close(own, expected[step], f'{path}, step {step}')


@pytest.mark.parametrize(
    ('file', 'changes'),
    [
        ('sgd', {}),
        ('sgd_nesterov', {'nesterov': True}),
        ('lars_swav', {'name': 'larc'}),
        ('lars_barlow_twins', {'name': 'lars', 'decay_1d': False, 'trust_1d': False}),
    ],
)
def test_three_steps_of_the_golden_vectors(golden, file, changes):
    vectors = golden(file)
    names = {'weight_decay': 'weight_decay', 'trust': 'trust_coefficient', 'momentum': 'momentum'}
    for name, stored in names.items():
        if stored in vectors:
            changes = changes | {name: float(vectors[stored])}
    changes['head_weight_decay'] = changes.get('weight_decay', 0.01)
    s = OptimizerSettings(**({'weight_decay': 0.01} | changes))
    with jax.enable_x64(True):
        params = {k: vectors[f'p0_{k}'] for k in 'wb'}
        grads = [{k: vectors[f'g{i}_{k}'] for k in 'wb'} for i in range(3)]
        found = steps_of(optimizer(s), params, grads, vectors['lrs'])
    for i, params in enumerate(found):
        for k in 'wb':
            ref.assert_close(params[k], vectors[f'p{i + 1}_{k}'], f'{k}, step {i}')
