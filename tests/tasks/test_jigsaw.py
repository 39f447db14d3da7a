"""Jigsaw: the set of permutations, what lies where, and that brightness tells nothing."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.jigsaw import Jigsaw, permutation_set, standardised
from tests.tasks.one_step import CONTRACT, first_state, run_loss, tiny_encoder

TASK = Jigsaw(image_size=30, short_side=1.0, jitter=0.3, flip=0.0, permutations=20, hidden=4)


def mean_distance(order, others):
    return np.mean([sum(a != b for a, b in zip(order, other, strict=True)) for other in others])


@pytest.mark.parametrize('seed', [0, 1])
def test_each_permutation_is_farthest_from_those_before(seed):
    """All 24 orders of four tiles, the mean distances computed anew for each."""
    found = [tuple(order) for order in permutation_set(24, 4, seed).tolist()]
    left = list(itertools.permutations(range(4)))
    left.remove(found[0])
    for number in range(1, 24):
        best = max(left, key=lambda order: mean_distance(order, found[:number]))
        assert found[number] == best
        left.remove(best)
    assert permutation_set(9, 4, seed).tolist() == permutation_set(24, 4, seed)[:9].tolist()


def test_a_set_of_nine_tiles():
    """Unlike each other (of two random orders eight tiles differ), and always the same."""
    orders = permutation_set(100)
    assert (np.sort(orders) == np.arange(9)).all()
    distance = (orders[:, None] != orders).sum(-1)[np.triu_indices(100, 1)]
    assert distance.min() >= 2 and distance.mean() > 8
    # Of a trained head's labels: they must not change.
    assert orders[:3].tolist() == [
        [7, 4, 5, 3, 2, 8, 6, 1, 0], [0, 1, 2, 4, 3, 5, 7, 6, 8], [1, 0, 3, 2, 4, 6, 5, 8, 7],
    ]  # fmt: skip


def test_place_t_shows_cell_order_t():
    task = Jigsaw(image_size=30, short_side=1.0, jitter=0.0, flip=0.0, permutations=20)
    image = np.random.default_rng(0).random((30, 30, 1), np.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    views = jax.device_get(jax.vmap(lambda key: task.views(key, {'image': image}))(keys))
    cells = image.reshape(3, 10, 3, 10).swapaxes(1, 2).reshape(9, 100)
    cells = (cells - cells.mean(1, keepdims=True)) / cells.std(1, keepdims=True)
    assert {*views['label'].tolist()} == {*range(20)}
    for tiles, label in zip(views['tiles'], views['label'], strict=True):
        expected = cells[permutation_set(20)[label]].reshape(9, 10, 10, 1)
        np.testing.assert_allclose(tiles, expected, atol=1e-4)


def test_brightness_and_contrast_of_a_tile_are_not_seen():
    """Neither is the noise of rounding in a tile without a picture."""
    rng = np.random.default_rng(0)
    tiles = rng.random((9, 8, 8, 1))
    factors, offsets = rng.uniform(0.3, 1, (2, 9, 1, 1, 1))
    np.testing.assert_allclose(
        standardised(factors * tiles + offsets), standardised(tiles), atol=1e-4
    )
    flat = standardised(0.7 + 1e-6 * rng.random((2, 8, 8, 1)))
    assert abs(flat).max() < 1e-3


class Moments(nn.Module):
    """Pooled: mean and mean square of what the network is given."""

    stages = ('moments',)
    feature_width = 2

    @nn.compact
    def __call__(self, x, train, groups=1):
        weight = self.param('weight', nn.initializers.ones, ())
        return {'moments': weight * jnp.concatenate([x, x**2], axis=-1)}


def test_the_network_is_given_standardised_tiles():
    """Behind the encoder's own normalisation, which is of whole images."""
    encoder = tiny_encoder(Moments(), CONTRACT)
    images = np.random.default_rng(0).random((8, 30, 30, 1), np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    views = jax.vmap(lambda key, image: TASK.views(key, {'image': image}))(keys, images)
    found = run_loss(TASK, encoder, first_state(TASK, encoder), views).embeddings
    assert {*found} == {f'cell{i}' for i in range(9)}
    for moments in found.values():
        np.testing.assert_allclose(moments, [[0, 1]] * 8, atol=1e-4)
