"""Relative location: where patches come from, what the pairs are, and MMSelfSup's statistics."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cxr_jax.models.dropout import kept_units
from cxr_jax.models.norm import BatchNorm
from cxr_jax.runtime import parallel
from cxr_jax.tasks.relloc import RelativeLocation
from tests.tasks.one_step import CONTRACT, first_state, run_loss, tiny_encoder

TASK = RelativeLocation(image_size=30, short_side=1.0, jitter=0.3)
CELL, PATCH = 10, 7


def many_views(task, image, n=400):
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(jax.vmap(lambda key: task.views(key, {'image': image})['patches'])(keys))


def test_patches_lie_in_their_cells_and_move_freely():
    """Pixels that tell where they are; every corner that fits its cell is met."""
    assert (TASK.grid.cell, TASK.grid.patch) == (CELL, PATCH)
    image = jnp.arange(900.0).reshape(30, 30, 1)
    patches = many_views(TASK, image)[..., 0]
    assert patches.shape == (400, 9, PATCH, PATCH)
    rows, columns = np.divmod(patches[:, :, 0, 0].astype(int), 30)
    for k in range(9):
        found = {*zip(rows[:, k] - k // 3 * CELL, columns[:, k] - k % 3 * CELL, strict=True)}
        assert found == {(i, j) for i in range(4) for j in range(4)}
    inside = np.arange(PATCH)[:, None] * 30 + np.arange(PATCH)
    np.testing.assert_array_equal(patches - patches[:, :, :1, :1], np.broadcast_to(
        inside, patches.shape))  # fmt: skip


def test_the_reference_patches_are_64_of_85_pixels():
    task = RelativeLocation()
    assert (task.image_size, task.grid.cell, task.smallest_input) == (255, 85, 64)
    assert round(task.image_size * task.short_side) == 292


def test_flip_mirrors_the_whole_grid():
    image = jnp.arange(900.0).reshape(30, 30, 1)
    always = many_views(dataclasses.replace(TASK, flip=1.0, jitter=0.0), image, 2)
    never = many_views(dataclasses.replace(TASK, jitter=0.0), image[:, ::-1], 2)
    np.testing.assert_array_equal(always, never)
    half = many_views(dataclasses.replace(TASK, flip=0.5, jitter=0.0), image)
    flipped = (half == always[0]).all((1, 2, 3, 4)).mean()
    assert 0.4 < flipped < 0.6  # 400 draws: four standard deviations


class Norm(nn.Module):
    """Batch norm alone: its running statistics tell which batches went through."""

    stages = ('norm',)
    feature_width = 1

    @nn.compact
    def __call__(self, x, train, groups=1):
        return {'norm': BatchNorm(axis_name=parallel.AXIS, name='norm')(x, train)}


@pytest.fixture(scope='module')
def step():
    """loss (patches -> result of one step), random patches of 4 images, head and task."""
    patches = np.random.default_rng(0).normal(size=(4, 9, PATCH, PATCH, 1)).astype('float32')
    task = dataclasses.replace(TASK, dropout=0.0)
    encoder = tiny_encoder(Norm(), dataclasses.replace(CONTRACT, mean=0.0, std=1.0))
    state = first_state(task, encoder)

    def loss(patches):
        return run_loss(task, encoder, state, {'patches': patches})

    head = jax.device_get(state.params['head'])
    return SimpleNamespace(loss=loss, patches=patches, head=head, task=task)


def test_loss_and_statistics_are_those_of_two_passes(step):
    """In NumPy: eight neighbours in row-major order, then the centre eight times."""
    result = step.loss(step.patches)
    neighbours = [0, 1, 2, 3, 5, 6, 7, 8]
    halves = [
        step.patches[:, neighbours].reshape(32, -1).astype(np.float64),
        np.repeat(step.patches[:, 4], 8, axis=0).reshape(32, -1).astype(np.float64),
    ]
    mean, var, pooled = 0.0, 1.0, []
    for half in halves:
        pooled.append(((half - half.mean()) / np.sqrt(half.var() + 1e-5)).mean(1))
        mean, var = 0.9 * mean + 0.1 * half.mean(), 0.9 * var + 0.1 * half.var(ddof=1)
    found = result.batch_stats['encoder']['norm']
    np.testing.assert_allclose([found['mean'][0], found['var'][0]], [mean, var], rtol=1e-5)

    # Of the embeddings, those of the neighbours and, once, of the centre.
    for i in range(8):
        embeddings = result.embeddings[f'neighbour{i}'][:, 0]
        np.testing.assert_allclose(embeddings, pooled[0].reshape(4, 8)[:, i], atol=1e-6)
    centres = result.embeddings['centre'][:, 0]
    np.testing.assert_allclose(centres, pooled[1][::8], atol=1e-6)

    hidden = np.stack(pooled, 1) @ step.head['linear1']['kernel']
    centred = hidden - hidden.mean(0)
    normal = np.maximum(centred / np.sqrt(centred.var(0) + 1e-5), 0)
    logits = normal @ step.head['linear2']['kernel']
    labels = np.tile(np.arange(8), 4)
    picked = logits[np.arange(32), labels]
    expected = (np.log(np.exp(logits).sum(1)) - picked).mean()
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
    pair = result.batch_stats['head']['bn1']
    np.testing.assert_allclose(pair['mean'], 0.003 * hidden.mean(0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(pair['var'], 0.997 + 0.003 * hidden.var(0, ddof=1), rtol=1e-5)


def test_dropout_keeps_the_asked_share_and_scales_it():
    def function(key):
        return kept_units(key, 400, 50, 0.25)

    mesh = parallel.data_mesh(jax.devices()[:1])
    kept = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec(),
                                 out_specs=PartitionSpec('data')))(jax.random.key(0))  # fmt: skip
    values, counts = np.unique(np.asarray(kept), return_counts=True)
    np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
    assert abs(counts[0] / 20000 - 0.25) < 0.0125  # four standard deviations
