"""A task that compares two views, with its chain of heads in NumPy."""

from types import SimpleNamespace

import jax
import numpy as np

from tests.parity import reference as ref

ROWS, INPUTS, WIDTH = 8, 4, 6
ENCODER = ref.LinearEncoder(WIDTH)


def random_state(task, seed: int = 0):
    """(state of float64 numbers, {view: images [ROWS, 1, 1, INPUTS]}) of the resolved task."""
    rng = np.random.default_rng(seed)
    parts = {'encoder': {'params': {'kernel': np.zeros((INPUTS, WIDTH))}, 'batch_stats': {}}}
    own, stats, extra = task.init(jax.random.key(0), ENCODER, parts)
    params = {'encoder': parts['encoder']['params'], **own}
    params, extra = jax.tree.map(lambda x: rng.normal(size=x.shape), (params, extra))
    stats = jax.tree.map(np.float64, {'encoder': {}, **stats})
    state = SimpleNamespace(params=params, batch_stats=stats, extra=extra, step=np.int32(3))
    return state, {view: rng.normal(size=(ROWS, 1, 1, INPUTS)) for view in ('first', 'second')}


def pooled(params, images):
    return images[:, 0, 0] @ params['encoder']['kernel']


def mlp(x, layers, norms):
    """`norms`: what follows each linear layer: 'learnt', 'plain' (no scale and shift) or ''."""
    for i, norm in enumerate(norms, 1):
        x = x @ layers[f'linear{i}']['kernel'] + layers[f'linear{i}'].get('bias', 0)
        if norm:
            plain = {'scale': 1, 'bias': 0}
            x = ref.batch_norm(x, layers[f'bn{i}'] if norm == 'learnt' else plain)
        x = x if i == len(norms) else ref.relu(x)
    return x


def cosine(a, b):
    """Of each row of a [B, D] with that of b, mean."""
    return (ref.unit(a) * ref.unit(b)).sum(-1).mean()
