"""Models Genesis: the intensity map, and the decoder with its loss."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.encoder import Features
from cxr_jax.tasks.genesis import Genesis, bezier_curve, restoration_loss
from tests.parity import reference as ref
from tests.tasks.one_step import State

ROWS, SIZE, SIDES, WIDTHS = 4, 16, (4, 2), (3, 5)


def curve(start_to_end, t):
    """Bernstein's polynomials of the four ordinates."""
    weights = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return weights.T @ start_to_end


@pytest.mark.parametrize('increasing', [True, False])
def test_bezier_curve(increasing):
    """The parameter of every abscissa as a root of the cubic, by NumPy."""
    compiled = jax.jit(bezier_curve)
    for seed, batch, _ in ref.cases():
        rng = np.random.default_rng(seed)
        points, x = rng.random((2, 2)), np.append(rng.random(batch), [0.0, 1.0])
        (x1, y1), (x2, y2) = points
        expected = []
        for value in x:
            roots = np.roots([1 + 3 * x1 - 3 * x2, 3 * x2 - 6 * x1, 3 * x1, -value])
            real = roots[(abs(roots.imag) < 1e-9) & (abs(roots.real - 0.5) < 0.5 + 1e-9)].real
            t = real[abs(curve(np.array([0, x1, x2, 1]), real) - value).argmin()]
            expected.append(curve(np.array([0, y1, y2, 1]), t if increasing else 1 - t))
        with jax.enable_x64(True):
            found = compiled(points, x, increasing)
        ref.assert_close(found, np.array(expected), f'seed {seed}')


def test_restoration_loss():
    def draw(rng, batch, width):
        shape = (batch, width, width, 1)
        return {'restored': rng.random(shape), 'target': rng.random(shape)}

    def reference(restored, target):
        return sum(((a - b) ** 2).mean() for a, b in zip(restored, target, strict=True)) / len(
            target
        )

    ref.assert_parity(restoration_loss, reference, draw)


@dataclasses.dataclass(frozen=True)
class TwoMaps:
    """Stands in for an Encoder: means over squares of 4 and 8 pixels, times a kernel each."""

    feature_width: int = WIDTHS[-1]
    network: ClassVar = SimpleNamespace(dtype=jnp.float64)
    contract: ClassVar = SimpleNamespace(channels=1)

    def __call__(self, params, batch_stats, images, train=True):
        maps = two_maps(params, images)
        return Features(maps, maps['last'].mean((1, 2)), batch_stats)


def two_maps(params, images):
    def means(side):
        step = SIZE // side
        return images.reshape(len(images), side, step, side, step, 1).mean((2, 4))

    names = ('first', 'last')
    return {name: means(side) * params[name] for name, side in zip(names, SIDES, strict=True)}


def enlarged(x, side):
    """Bilinear, the centres of pixels in their places, clamped at the border."""
    places = ((np.arange(side) + 0.5) * x.shape[1] / side - 0.5).clip(0, x.shape[1] - 1)
    weights = np.maximum(1 - abs(places[:, None] - np.arange(x.shape[1])), 0)
    return np.einsum('ij,kl,bjlc->bikc', weights, weights, x)


def convolved(x, kernel):
    """3x3, zeros around."""
    side = x.shape[1]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def normalised(x, layer, norm):
    if norm == 'batch':
        return ref.batch_norm(x, layer)
    return np.concatenate([ref.batch_norm(image[None], layer) for image in x])


def decoded(params, maps, norm):
    """The way up: to the first map's size, to half of the image's, four pixels from each."""
    x = maps['last']
    for level, skip in ((1, maps['first']), (0, None)):
        x = enlarged(x, SIDES[0] if level else SIZE // 2)
        x = x if skip is None else np.concatenate([x, skip], axis=-1)
        for i in (1, 2):
            x = convolved(x, params[f'up{level}_conv{i}']['kernel'])
            x = ref.relu(normalised(x, params[f'up{level}_norm{i}'], norm))
    logits = ref.linear(x, params['logits'])
    image = np.zeros((len(x), SIZE, SIZE, 1), logits.dtype)
    for k in range(4):
        image[:, k // 2 :: 2, k % 2 :: 2, 0] = logits[..., k]
    return 1 / (1 + np.exp(-image))


@pytest.mark.parametrize(('norm', 'devices'), [('batch', 1), ('batch', 4), ('instance', 1)])
def test_the_whole_step(norm, devices):
    """The distorted image goes in, the clean one is what comes out; batch norm over all rows."""
    task, encoder, rng = (
        Genesis(image_size=SIZE, width=2, norm=norm),
        TwoMaps(),
        np.random.default_rng(0),
    )
    of_encoder = {
        name: rng.normal(size=n) for name, n in zip(('first', 'last'), WIDTHS, strict=True)
    }
    parts = {'encoder': {'params': of_encoder, 'batch_stats': {}}}
    with jax.enable_x64(True):
        shapes, stats, extra = jax.eval_shape(
            lambda key: task.init(key, encoder, parts), jax.random.key(0)
        )
    params = {'encoder': of_encoder}
    params |= jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    stats = {'encoder': {}} | jax.tree.map(lambda leaf: np.ones(leaf.shape), stats)
    views = {name: rng.random((ROWS, SIZE, SIZE, 1)) for name in ('clean', 'image')}

    def loss(params):
        restored = decoded(params['decoder'], two_maps(params['encoder'], views['image']), norm)
        return ((restored - views['clean']) ** 2).mean()

    state = State(params=params, batch_stats=stats, extra=extra, step=np.int32(0))
    result = ref.assert_task_parity(task, encoder, state, views, loss, devices)
    variance = np.mean([image.var() for image in views['clean']])
    ref.assert_close(result.metrics['variance'], variance)
