"""Any number of devices gives the same training: the whole TrainState, for every task."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cxr_jax.models.encoder import ENCODERS
from tests import exactness, tiny


@pytest.mark.parametrize('case', exactness.CASES)
def test_four_devices_equal_one(case, exact):
    one = exact(case, 1)
    losses = [values for name, values in one.items() if name.endswith("['loss']")]
    assert len(set(map(float, losses))) == tiny.STEPS
    assert {leaf.dtype for name, leaf in one.items() if "['params']['encoder']" in name} == {
        jnp.dtype('float64')
    }
    exactness.assert_equal(exact(case, exactness.DEVICES), one)


@pytest.mark.parametrize('devices', (2, 8))
def test_any_number_of_devices_equals_one(devices, exact):
    exactness.assert_equal(exact('rot', devices), exact('rot', 1))


def test_no_gradient_scatters():
    """GPUs have no deterministic implementation of select-and-scatter, max-pooling's gradient."""
    network = ENCODERS['resnet18'](width=8, dtype=jnp.float32, axis_name=None, remat=False)
    images = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    init = functools.partial(network.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), images)

    def loss(params, stats, images):
        variables = {'params': params, 'batch_stats': stats}
        maps, _ = network.apply(variables, images, train=True, mutable=['batch_stats'])
        return list(maps.values())[-1].sum()

    arguments = variables['params'], variables['batch_stats'], images
    traced = jax.jit(jax.grad(loss)).trace(*arguments)
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
    assert 'stablehlo.convolution' in text or 'stablehlo.dot_general' in text
    assert 'select_and_scatter' not in text
