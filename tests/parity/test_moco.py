"""MoCo: the contrastive loss, the teacher and the queue."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.heads import unit_rows
from cxr_jax.tasks.moco import MoCo, info_nce
from tests.parity import reference as ref

TASK = MoCo(queue_size=16, hidden=5, features=3, key_groups=1, momentum=0.9, temperature=0.3)
ROWS, INPUTS, WIDTH = 8, 4, 6


def plain(query, key, queue, temperature=0.2):
    logits = np.concatenate([(query * key).sum(-1, keepdims=True), query @ queue.T], axis=1)
    return ref.cross_entropy(logits / temperature, np.zeros(len(query), int))


def test_info_nce():
    def draw(rng, batch, width):
        rows = {'query': batch, 'key': batch, 'queue': 2 * batch + 1}
        return {name: rng.normal(size=(count, width)) for name, count in rows.items()}

    for temperature in (0.2, 1.0):
        ref.assert_parity(
            lambda query, key, queue, t=temperature: info_nce(query, key, queue, t),
            lambda query, key, queue, t=temperature: plain(query, key, queue, t),
            draw, 50,
        )  # fmt: skip


def test_info_nce_of_the_golden_vector(golden):
    vectors = golden('moco_infonce')

    def loss(query):
        key = ref.unit(vectors['key'])
        return info_nce(unit_rows(query), key, vectors['queue'], float(vectors['temperature']))

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(vectors['query']))
    ref.assert_close(value, vectors['loss'])
    ref.assert_close(gradient, vectors['grad_query'])


def random_state(task, seed=0):
    rng = np.random.default_rng(seed)

    def params():
        return {
            'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
            'projector': {
                'linear1': {'kernel': rng.normal(size=(WIDTH, 5)), 'bias': rng.normal(size=5)},
                'linear2': {'kernel': rng.normal(size=(5, 3)), 'bias': rng.normal(size=3)},
            },
        }

    extra = {
        'teacher': params(), 'teacher_stats': {}, 'pointer': np.int32(8),
        'queue': ref.unit(rng.normal(size=(task.queue_size, 3))),
    }  # fmt: skip
    stats = {'encoder': {}, 'projector': {}}
    state = SimpleNamespace(params=params(), batch_stats=stats, extra=extra, step=np.int32(3))
    views = {name: rng.normal(size=(ROWS, 1, 1, INPUTS)) for name in ('query', 'key')}
    return state, views


def embedded(params, images):
    hidden = ref.linear(
        images[:, 0, 0] @ params['encoder']['kernel'], params['projector']['linear1']
    )
    return ref.unit(ref.linear(ref.relu(hidden), params['projector']['linear2']))


def moved(teacher, params, momentum):
    if isinstance(teacher, dict):
        return {name: moved(teacher[name], params[name], momentum) for name in teacher}
    return momentum * teacher + (1 - momentum) * params


@pytest.mark.parametrize(('groups', 'devices'), [(1, 1), (4, 4)])
def test_the_whole_step(groups, devices):
    """The teacher moves first, and no gradient flows into it; the keys enter the queue at the
    pointer, after the loss. Shuffling changes nothing without batch norm."""
    task = dataclasses.replace(TASK, key_groups=groups)
    state, views = random_state(task)
    teacher = moved(state.extra['teacher'], state.params, task.momentum)
    keys = embedded(teacher, views['key'])

    def loss(params):
        query = embedded(params, views['query'])
        return plain(query, keys, state.extra['queue'], task.temperature)

    result = ref.assert_task_parity(task, ref.LinearEncoder(WIDTH), state, views, loss, devices)
    ref.assert_close(result.extra['queue'], [*state.extra['queue'][:8], *keys])
    assert result.extra['pointer'] == 0
    for part in ('encoder', 'projector'):
        found, expected = result.extra['teacher'][part], teacher[part]
        layers = [(found, expected)] if part == 'encoder' else [
            (found[name], expected[name]) for name in expected
        ]  # fmt: skip
        for own, layer in layers:
            for name in layer:
                ref.assert_close(own[name], layer[name])
    ref.assert_close(result.embeddings['key'], keys)
