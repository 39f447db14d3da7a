"""Losses against independent NumPy references in float64, gradients by the complex step.

The complex step (Squire and Trapp 1998) gives derivatives without a difference, so without loss of
digits: f(x + ih) = f(x) + ih f'(x) + O(h²). A reference must therefore be made of functions that
are analytic where they are evaluated: no abs, conj or linalg.norm; choices go by the real part.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models.encoder import Features
from cxr_jax.runtime import parallel
from tests.tasks.one_step import run_loss

RELATIVE = 1e-10
STEP = 1e-30
# Batch and width: each is compiled once. Small ones, odd ones, and more columns than rows.
SHAPES = ((2, 3), (3, 2), (5, 8), (7, 4), (8, 6), (13, 5))


def complex_gradient(f: Callable, x: np.ndarray) -> np.ndarray:
    """Gradient of a real-valued function of one array, exact to about 1e-15."""
    gradient = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[at] += 1j * STEP
        gradient[at] = np.imag(f(moved)) / STEP
    return gradient


def cases(count: int = 100) -> list[tuple[int, int, int]]:
    """(seed, batch, width) of `count` random inputs."""
    return [(seed, *SHAPES[seed % len(SHAPES)]) for seed in range(count)]


def assert_close(found, expected, what: str = '') -> None:
    """Equal to 1e-10 of the greatest expected entry; what is zero by cancellation has no digits."""
    expected = np.asarray(expected)
    scale = max(abs(expected).max(initial=0), 1e-3)
    np.testing.assert_allclose(
        np.asarray(found), expected, RELATIVE, RELATIVE * scale, err_msg=what
    )


def assert_parity(
    loss: Callable, reference: Callable, draw: Callable, count: int = 100, stopped=()
) -> None:
    """Compares a JAX loss and its gradients with a NumPy reference on `count` random inputs.

    draw(rng, batch, width) -> {argument: array}, given to both by name. The gradient is with
    respect to every array of floats; to those named in `stopped` no gradient may flow.
    """
    with jax.enable_x64(True):
        compiled: dict[tuple, Callable] = {}
        for seed, batch, width in cases(count):
            arrays = draw(np.random.default_rng(seed), batch, width)
            names = tuple(name for name, x in arrays.items() if np.asarray(x).dtype.kind == 'f')
            if names not in compiled:
                compiled[names] = jax.jit(_with_gradients(loss, names))
            value, gradients = compiled[names](arrays)
            what = f'seed {seed}, {batch} rows of {width}'
            assert value.dtype == jnp.float64, 'the loss does not keep float64'
            assert_close(value, reference(**arrays), f'loss, {what}')
            for name in names:
                if name in stopped:
                    np.testing.assert_array_equal(gradients[name], 0, f'{name}, {what}')
                    continue

                def of_one(x, name=name, arrays=arrays):
                    return reference(**arrays | {name: x})

                expected = complex_gradient(of_one, np.asarray(arrays[name]))
                assert_close(gradients[name], expected, f'gradient of {name}, {what}')


def _with_gradients(loss, names):
    def both(arrays):
        rest = {name: x for name, x in arrays.items() if name not in names}
        own = {name: jnp.asarray(arrays[name]) for name in names}
        return jax.value_and_grad(lambda own: loss(**own, **rest))(own)

    return both


@dataclasses.dataclass(frozen=True)
class LinearEncoder:
    """Stands in for an Encoder: maps [b, h, w, c] @ kernel [c, D], pooled, without batch norm."""

    feature_width: int
    stages: ClassVar[tuple[str, ...]] = ('last',)

    def __call__(self, params, batch_stats, images, train=True, groups=1):
        maps = jnp.matmul(images, params['kernel'], precision=jax.lax.Precision.HIGHEST)
        return Features({'last': maps}, maps.mean((1, 2)), batch_stats)


def assert_task_parity(task, encoder, state, views: dict, reference: Callable, devices: int = 1):
    """Compares a whole Task.loss and its gradients with reference(params) -> loss in NumPy.

    Of each leaf's gradient, the derivative along one random direction, which no wrong entry leaves
    as it is. `state` as of one_step.first_state, in float64. Returns what the step returned.
    """
    with jax.enable_x64(True):
        result = run_loss(task, encoder, state, views, devices)
    assert_close(result.loss, reference(state.params), 'loss')
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree_util.tree_flatten_with_path(state.params)
    for i, (path, leaf) in enumerate(leaves):
        own = np.asarray(jax.tree.leaves(result.gradients)[i])
        direction = rng.normal(size=leaf.shape)
        moved = [value for _, value in leaves]
        moved[i] = leaf + 1j * STEP * direction
        expected = np.imag(reference(jax.tree.unflatten(tree, moved))) / STEP
        scale = max(abs(own * direction).sum(), 1e-3)
        error = abs((own * direction).sum() - expected)
        assert error <= RELATIVE * scale, f'gradient of {jax.tree_util.keystr(path)}: {error}'
    return result


def on_one_device(function: Callable, *arguments):
    """What a function that uses the mesh's axis computes of whole arrays."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    specs = (tuple(False for _ in arguments), False)
    return parallel.sharded(function, mesh, *specs)(*arguments)


def unit(x):
    """Rows of x [..., D] of length 1."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def log_softmax(x):
    """Over the last axis."""
    x = x - x.real.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross_entropy(logits, labels):
    """Mean over rows [N, K] of the cross-entropy with their class [N]."""
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def linear(x, layer):
    """Linear layer with the parameters of flax.linen.Dense."""
    return x @ layer['kernel'] + layer['bias']


def batch_norm(x, layer, epsilon=1e-5):
    """Over all axes but the last, with the statistics of x."""
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    return (
        centred / np.sqrt((centred * centred).mean(axes) + epsilon) * layer['scale'] + layer['bias']
    )


def relu(x):
    return np.where(x.real > 0, x, 0)
