"""Jigsaw: the head over nine tiles and the cross-entropy, alone and as a task."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax.models.heads import PuzzleHead
from cxr_jax.tasks.jigsaw import Jigsaw, permutation_set
from tests.parity import reference as ref
from tests.tasks.one_step import CONTRACT

ROWS, INPUTS, WIDTH, HIDDEN, ORDERS = 8, 2, 3, 4, 5
TASK = Jigsaw(image_size=24, permutations=ORDERS, hidden=HIDDEN)


def random_head(rng, width):
    def linear(inputs, outputs):
        return {'kernel': rng.normal(size=(inputs, outputs)), 'bias': rng.normal(size=outputs)}

    norm = {'scale': rng.normal(size=HIDDEN), 'bias': rng.normal(size=HIDDEN)}
    return {'linear1': linear(width, HIDDEN), 'bn1': norm, 'linear2': linear(9 * HIDDEN, ORDERS)}


def plain(places, head, labels):
    """places [B, 9, D]: one layer for all of them, another over all nine."""
    hidden = np.stack([ref.linear(places[:, t], head['linear1']) for t in range(9)], axis=1)
    hidden = ref.relu(ref.batch_norm(hidden, head['bn1']))
    side_by_side = np.concatenate([hidden[:, t] for t in range(9)], axis=1)
    return ref.cross_entropy(ref.linear(side_by_side, head['linear2']), labels)


def test_the_head():
    statistics = {'bn1': {'mean': jnp.zeros(HIDDEN), 'var': jnp.ones(HIDDEN)}}

    def draw(rng, batch, width):
        head = random_head(rng, width)
        flat = {f'{layer}_{x}': values for layer in head for x, values in head[layer].items()}
        places = rng.normal(size=(batch, 9, width))
        return flat | {'places': places, 'labels': rng.integers(0, ORDERS, batch)}

    def nested(flat):
        head = {}
        for name, values in flat.items():
            layer, _, x = name.partition('_')
            head.setdefault(layer, {})[x] = values
        return head

    def ours(places, labels, **flat):
        variables = {'params': nested(flat), 'batch_stats': statistics}
        logits, _ = PuzzleHead(ORDERS, HIDDEN).apply(variables, places, mutable=['batch_stats'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def reference(places, labels, **flat):
        return plain(places, nested(flat), labels)

    ref.assert_parity(ours, reference, draw)


class Normalising(ref.LinearEncoder):
    """Normalises as an Encoder does."""

    contract = CONTRACT

    def __call__(self, params, batch_stats, images, train=True, groups=1):
        images = (images - self.contract.mean) / self.contract.std
        return super().__call__(params, batch_stats, images, train, groups)


@pytest.mark.parametrize('devices', [1, 4])
def test_the_whole_step(devices):
    rng = np.random.default_rng(0)
    params = {
        'encoder': {'kernel': rng.normal(size=(INPUTS, WIDTH))}, 'head': random_head(rng, WIDTH)
    }  # fmt: skip
    stats = {'bn1': {'mean': np.zeros(HIDDEN), 'var': np.ones(HIDDEN)}}
    state = SimpleNamespace(
        params=params, batch_stats={'encoder': {}, 'head': stats}, extra={}, step=np.int32(0)
    )
    tiles, labels = rng.normal(size=(ROWS, 9, 2, 2, INPUTS)), rng.integers(0, ORDERS, ROWS)

    def pooled(params):
        return tiles.mean((2, 3)) @ params['encoder']['kernel']

    result = ref.assert_task_parity(
        TASK, Normalising(WIDTH), state, {'tiles': tiles, 'label': labels},
        lambda params: plain(pooled(params), params['head'], labels), devices,
    )  # fmt: skip
    for cell in range(9):
        shown_at = [list(permutation_set(ORDERS)[label]).index(cell) for label in labels]
        expected = pooled(params)[np.arange(ROWS), shown_at]
        ref.assert_close(result.embeddings[f'cell{cell}'], expected)
