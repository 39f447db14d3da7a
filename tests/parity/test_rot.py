"""Rotation: cross-entropy over the four turns of every image."""

from types import SimpleNamespace

import numpy as np
import pytest

from cxr_jax.tasks.rot import Rotation
from tests.parity import reference as ref

INPUTS, WIDTH = 3, 5


@pytest.mark.parametrize(('devices', 'count'), [(1, 100), (4, 10)])
def test_the_whole_step(devices, count):
    for seed, rows, _ in ref.cases(count):
        rows = rows if devices == 1 else 8
        rng = np.random.default_rng(seed)
        params = {
            'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
            'head': {'linear': {'kernel': rng.normal(size=(WIDTH, 4)), 'bias': rng.normal(size=4)}},
        }
        stats = {'encoder': {}, 'head': {}}
        state = SimpleNamespace(params=params, batch_stats=stats, extra={}, step=np.int32(0))
        images = rng.normal(size=(rows, 4, 1, 1, INPUTS))
        views = {'image': images, 'label': np.tile(np.arange(4), (rows, 1))}
        right = []

        def loss(params, images=images, rows=rows, right=right):
            total = 0
            for turn in range(4):
                pooled = images[:, turn, 0, 0] @ params['encoder']['kernel']
                logits = ref.linear(pooled, params['head']['linear'])
                right.append((logits.real.argmax(1) == turn).mean())
                total = total + ref.cross_entropy(logits, np.full(rows, turn))
            return total / 4

        encoder = ref.LinearEncoder(WIDTH)
        result = ref.assert_task_parity(Rotation(), encoder, state, views, loss, devices)
        np.testing.assert_allclose(result.metrics['accuracy'], np.mean(right[:4]), rtol=1e-6)
