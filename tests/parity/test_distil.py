"""Distillation: its three terms, and the whole loss of a task that it is added to."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from cxr_jax.tasks.distil import (
    HIDDEN,
    Distillation,
    Distilled,
    feature_loss,
    predictive_loss,
    soft_target_loss,
)
from cxr_jax.tasks.rot import Rotation
from tests.parity import reference as ref

ROWS, INPUTS, WIDTH, CLASSES = 8, 4, 6, 3


def distance(student, teacher):
    return (1 - (ref.unit(student) * ref.unit(teacher)).sum(-1)).mean()


def softened(student, teacher, temperature, exclusive):
    if not exclusive:  # each answer and its opposite
        student, teacher = (np.stack([x, 0 * x], axis=-1) for x in (student, teacher))
    log_q, log_p = ref.log_softmax(student / temperature), ref.log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def draw(rng, batch, width):
    return {name: rng.normal(size=(batch, width)) for name in ('student', 'teacher')}


def test_features_and_predictions():
    ref.assert_parity(feature_loss, distance, draw)

    def twice(student, teacher):
        """The squared distance of unit rows."""
        return ((ref.unit(student) - ref.unit(teacher)) ** 2).sum(-1).mean()

    ref.assert_parity(lambda student, teacher: predictive_loss(student, teacher), twice, draw)


@pytest.mark.parametrize('exclusive', [True, False])
@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_soft_targets(temperature, exclusive):
    ref.assert_parity(
        lambda student, teacher: soft_target_loss(student, teacher, temperature, exclusive),
        lambda student, teacher: softened(student, teacher, temperature, exclusive),
        draw, 50,
    )  # fmt: skip


@pytest.mark.parametrize('exclusive', [True, False])
def test_equal_answers_cost_nothing(exclusive):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert abs(feature_loss(x, 3 * x)) < 1e-6 and abs(predictive_loss(x, 3 * x)) < 1e-6
    assert abs(soft_target_loss(x, x, 2.0, exclusive)) < 1e-6
    assert soft_target_loss(x, x[::-1], 2.0, exclusive) > 0.1


def random_state(kind):
    rng = np.random.default_rng(0)

    def linear(inputs, outputs):
        return {'kernel': rng.normal(size=(inputs, outputs)), 'bias': rng.normal(size=outputs)}

    distiller = {
        'features': {},
        'cassle': {'distiller': {
            'linear1': linear(WIDTH, HIDDEN), 'linear2': linear(HIDDEN, WIDTH),
            'bn1': {'scale': rng.uniform(0.5, 2, HIDDEN), 'bias': rng.normal(size=HIDDEN)},
        }},
        'lwf': {'distiller': {'linear': linear(WIDTH, CLASSES)}},
    }[kind]  # fmt: skip
    params = {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
        'head': {'linear': linear(WIDTH, 4)},
        **distiller,
    }
    running = {'bn1': {'mean': np.zeros(HIDDEN), 'var': np.ones(HIDDEN)}}
    stats = {'encoder': {}, 'head': {}}
    stats |= {part: running if kind == 'cassle' else {} for part in distiller}
    teacher = {'encoder': {'params': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
                           'batch_stats': {}}}  # fmt: skip
    if kind == 'lwf':
        teacher['head'] = {'params': {'linear': linear(WIDTH, CLASSES)}, 'batch_stats': {}}
    state = SimpleNamespace(params=params, batch_stats=stats, extra={'distil': teacher}, step=0)
    views = {
        'image': rng.normal(size=(ROWS, 4, 1, 1, INPUTS)), 'label': np.tile(np.arange(4), (ROWS, 1))
    }  # fmt: skip
    return state, views


@pytest.mark.parametrize(('exclusive', 'devices'), [(True, 1), (False, 4)])
@pytest.mark.parametrize('kind', ['features', 'cassle', 'lwf'])
def test_the_whole_loss(kind, exclusive, devices):
    """A rotation task that keeps another task's features or answers, over all four turns."""
    distillation = Distillation(kind, weight=0.7, temperature=2.0, exclusive=exclusive)
    state, views = random_state(kind)
    images, teacher = views['image'].reshape(-1, INPUTS), state.extra['distil']
    target = images @ teacher['encoder']['params']['kernel']
    terms = {}

    def term(params, features):
        own = params.get('distiller')
        if kind == 'features':
            return distance(features, target)
        if kind == 'lwf':
            old = ref.linear(target, teacher['head']['params']['linear'])
            return softened(ref.linear(features, own['linear']), old, 2.0, exclusive)
        hidden = ref.relu(ref.batch_norm(ref.linear(features, own['linear1']), own['bn1']))
        return 2 * distance(ref.linear(hidden, own['linear2']), target)

    def loss(params):
        features = images @ params['encoder']['kernel']
        logits = ref.linear(features, params['head']['linear'])
        terms['task_loss'] = ref.cross_entropy(logits, views['label'].reshape(-1))
        terms['distil_loss'] = term(params, features)
        return terms['task_loss'] + 0.7 * terms['distil_loss']

    task = Distilled(dataclasses.replace(Rotation(), image_size=1), distillation)
    encoder = ref.LinearEncoder(WIDTH)
    result = ref.assert_task_parity(task, encoder, state, views, loss, devices)
    loss(state.params)
    for name, value in terms.items():
        ref.assert_close(result.metrics[name], value, name)
