"""Relative location: pairs of patches, their head with batch norm, cross-entropy of the places."""

from types import SimpleNamespace

import numpy as np
import pytest

from cxr_jax.tasks.relloc import RelativeLocation
from tests.parity import reference as ref

INPUTS, WIDTH = 2, 3
TASK = RelativeLocation(dropout=0.0)


def random_params(rng):
    wide = 2 * WIDTH
    return {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))},
        'head': {
            'linear1': {'kernel': rng.normal(size=(wide, wide)), 'bias': rng.normal(size=wide)},
            'bn1': {'scale': rng.normal(size=wide), 'bias': rng.normal(size=wide)},
            'linear2': {'kernel': rng.normal(size=(wide, 8)), 'bias': rng.normal(size=8)},
        },
    }


def hidden_of(params, patches):
    """[B, 8, 2 D]: the place's patch first, the centre's behind it."""
    pooled = patches[:, :, 0, 0] @ params['encoder']['kernel']
    pairs = []
    for place in (0, 1, 2, 3, 5, 6, 7, 8):
        pairs.append(np.concatenate([pooled[:, place], pooled[:, 4]], axis=1))
    return ref.linear(np.stack(pairs, axis=1), params['head']['linear1'])


@pytest.mark.parametrize(('devices', 'count'), [(1, 100), (4, 10)])
def test_the_whole_step(devices, count):
    for seed, rows, _ in ref.cases(count):
        rows = rows if devices == 1 else 8
        rng = np.random.default_rng(seed)
        params, norms = random_params(rng), {'mean': np.zeros(6), 'var': np.ones(6)}
        stats = {'encoder': {}, 'head': {'bn1': norms}}
        state = SimpleNamespace(params=params, batch_stats=stats, extra={}, step=np.int32(0))
        patches = rng.normal(size=(rows, 9, 1, 1, INPUTS))

        def loss(params, patches=patches, rows=rows):
            normal = ref.batch_norm(hidden_of(params, patches), params['head']['bn1'])
            logits = ref.linear(ref.relu(normal), params['head']['linear2'])
            of_places = [ref.cross_entropy(logits[:, k], np.full(rows, k)) for k in range(8)]
            return sum(of_places) / 8

        encoder = ref.LinearEncoder(WIDTH)
        result = ref.assert_task_parity(TASK, encoder, state, {'patches': patches}, loss, devices)
        hidden = hidden_of(params, patches).reshape(-1, 6)
        found = result.batch_stats['head']['bn1']
        ref.assert_close(found['mean'], 0.003 * hidden.mean(0))
        ref.assert_close(found['var'], 0.997 + 0.003 * hidden.var(0, ddof=1))
