import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.conv import conv2d, max_pool, winograd, xla_convolution
from cxr_jax.models.encoder import EncoderSettings, build_encoder, build_network
from cxr_jax.models.norm import EPSILON, MOMENTUM, BatchNorm
from cxr_jax.models.resnet import ResNet
from cxr_jax.models.torch_names import load_weights
from cxr_jax.store import trees
from cxr_jax.tasks.rot import Rotation
from data_pipelines.errors import UserError
from tests.conftest import GOLDEN
from tests.tasks.one_step import CONTRACT, compiled_loss, first_state, make_views, random_batch


def load(depth, channels=3):
    network = ResNet(depth, width=8)
    images = jnp.zeros((2, 64, 64, channels))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=True))
    path = GOLDEN / f'resnet{depth}_width8_torchvision.safetensors'
    return network, load_weights(path, shapes['params'], shapes['batch_stats'])


@pytest.mark.parametrize('depth', [18, 50])
def test_agrees_with_torchvision(golden, depth):
    vectors = golden(f'resnet{depth}_width8')
    network, (params, stats) = load(depth)
    images = vectors['input_nchw'].transpose(0, 2, 3, 1)
    variables = {'params': params, 'batch_stats': stats}
    maps = network.apply(variables, images, train=False)
    np.testing.assert_allclose(maps['layer4'].mean((1, 2)), vectors['pooled_eval'], atol=1e-4)
    layer1 = maps['layer1'].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(layer1, vectors['layer1_eval_nchw'], atol=1e-4)
    trained, _ = network.apply(variables, images, train=True, mutable=['batch_stats'])
    trained = trained['layer4']
    # Batch statistics of 8 values amplify rounding: the ResNet-50 vector (float32) is itself 2.2e-4
    # from a float64 run at its worst entry, so this one is compared as a whole.
    difference = np.linalg.norm(trained.mean((1, 2)) - vectors['pooled_train'])
    assert difference < 1e-4 * np.linalg.norm(vectors['pooled_train'])


def test_folded_stem_equals_repeated_grey(golden):
    grey = golden('resnet18_width8')['input_nchw'][:, :1].transpose(0, 2, 3, 1)
    network, (params, stats) = load(18)
    folded_params, _ = load(18, channels=1)[1]
    three = network.apply({'params': params, 'batch_stats': stats}, grey.repeat(3, -1), train=False)
    one = network.apply({'params': folded_params, 'batch_stats': stats}, grey, train=False)
    for stage in network.stages:
        np.testing.assert_allclose(one[stage], three[stage], atol=1e-4)


def test_wrong_width_lists_every_leaf():
    shapes = jax.eval_shape(
        lambda: ResNet(18, width=16).init(jax.random.key(0), jnp.zeros((2, 64, 64, 3)), train=True)
    )
    path = GOLDEN / 'resnet18_width8_torchvision.safetensors'
    with pytest.raises(UserError) as error:
        load_weights(path, shapes['params'], shapes['batch_stats'])
    leaves = len(jax.tree.leaves(shapes))
    assert f'{leaves} leaves differ' in str(error.value)
    assert '--config.encoder.name' in str(error.value)
    assert 'layer4.0.downsample.1.running_var: in the file (64,)' in str(error.value)


@pytest.mark.parametrize(
    ('size', 'stride', 'height', 'width', 'channels'),
    [
        (3, 1, 9, 8, 5),
        (3, 2, 9, 8, 5),
        (7, 2, 8, 9, 1),
        (1, 2, 9, 8, 5),
        (1, 1, 8, 8, 5),
        # From here on Winograd's: whole tiles, then a part of one at either edge.
        (3, 1, 4, 6, 171),
        (3, 1, 5, 6, 171),
        (3, 1, 6, 5, 205),
    ],
)
def test_cpu_lowering_equals_xla_convolution(size, stride, height, width, channels):
    """Value and both gradients, for every branch of the lowering, in float64."""
    rng = np.random.default_rng(width)
    features = channels + 1
    x = rng.normal(size=(2, height, width, channels))
    kernel = rng.normal(size=(size, size, channels, features)) / (size * channels**0.5)
    weight = rng.normal(size=(2, -(-height // stride), -(-width // stride), features))

    def value_and_gradients(convolve):
        # Squared, so that the gradient depends on the value and every path is exercised.
        function = jax.value_and_grad(
            lambda x, k: (jnp.square(convolve(x, k, stride, size // 2)) * weight).sum(), (0, 1)
        )
        return jax.tree.leaves(function(jnp.asarray(x), jnp.asarray(kernel)))

    with jax.enable_x64(True):
        expected = value_and_gradients(xla_convolution)
        for a, b in zip(value_and_gradients(conv2d), expected, strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_winograd_rounds_little():
    """float32 at the widest layer of a ResNet-18 against float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 4, 512)).astype('float32')
    kernel = rng.normal(size=(3, 3, 512, 512)).astype('float32')
    with jax.enable_x64(True):
        exact = np.asarray(xla_convolution(*(jnp.asarray(a, float) for a in (x, kernel)), 1, 1))
    error = np.linalg.norm(winograd(x, kernel) - exact) / np.linalg.norm(exact)
    assert error < 3e-6


@pytest.mark.parametrize('size', [(8, 8), (9, 6)])
def test_max_pool_equals_window_maximum(size):
    """Value and gradient; no two values of the input are equal."""
    values = np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3)
    x = values.reshape(2, *size, 3).astype('float32')

    def value_and_gradient(pool):
        return jax.value_and_grad(lambda x: jnp.square(pool(x)).sum())(x)

    expected = value_and_gradient(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    for a, b in zip(value_and_gradient(max_pool), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def loss_of(network, images):
    def loss(params, stats):
        variables = {'params': params, 'batch_stats': stats}
        maps, stats = network.apply(variables, images, train=True, mutable=['batch_stats'])
        return jnp.square(maps[network.stages[-1]]).sum(), stats

    return loss


def test_rematerialisation_keeps_the_gradients():
    """In float64: float32 rounds by 4e-6 in another order."""
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    _, variables = load(18)

    def gradients(remat):
        loss = loss_of(ResNet(18, 8, dtype=jnp.float64, remat=remat), jnp.asarray(images))
        return jax.jit(jax.grad(loss, has_aux=True))(*variables)

    with jax.enable_x64(True):
        expected, found = gradients(False), gradients(True)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize('name', ['resnet50', 'densenet121'])
def test_rematerialisation_keeps_fewer_arrays(name):
    """Same parameters; what is kept for the gradient, on any platform, is less than half."""
    images = jnp.zeros((8, 64, 64, 1))

    def kept(remat):
        # On one device, so without a mesh.
        network = build_network(EncoderSettings(name, 8, remat=remat)).clone(axis_name=None)
        variables = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=True))
        loss = loss_of(network, images)
        gradient = jax.eval_shape(
            lambda *arguments: jax.vjp(loss, *arguments, has_aux=True)[1],
            variables['params'],
            variables['batch_stats'],
        )
        return trees.leaf_table(variables), sum(x.size for x in jax.tree.leaves(gradient))

    (expected, everything), (found, some) = kept(False), kept(True)
    assert found == expected
    assert some < everything / 2


def test_batch_norm_of_bfloat16_is_computed_in_float32():
    """Against NumPy in float64: the same numbers in bfloat16 would be 1e-2 off."""
    x = np.random.default_rng(0).normal(3.0, 0.5, (8, 4, 4, 3)).astype(jnp.bfloat16)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updated = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    wide = x.astype('float64').reshape(-1, 3)
    normalised = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + EPSILON)
    np.testing.assert_allclose(
        np.asarray(y, 'float64').reshape(-1, 3), normalised, rtol=2**-8, atol=1e-5
    )
    stats = updated['batch_stats']
    np.testing.assert_allclose(stats['mean'], (1 - MOMENTUM) * wide.mean(0), rtol=1e-5)
    expected = MOMENTUM + (1 - MOMENTUM) * wide.var(0, ddof=1)
    np.testing.assert_allclose(stats['var'], expected, rtol=1e-5)


def test_bfloat16_step_keeps_state_and_losses_in_float32():
    encoder = build_encoder(EncoderSettings('resnet18', 8, dtype='bfloat16'), CONTRACT)
    task = Rotation(image_size=24)
    views = jax.eval_shape(lambda: make_views(task, random_batch(task)))
    state = jax.eval_shape(lambda: vars(first_state(task, encoder)))
    params = state.pop('params')
    results = jax.eval_shape(compiled_loss(task, encoder), params, state, views)
    (loss, gradients, batch_stats, _, metrics), embeddings = results
    assert trees.leaf_table(gradients) == trees.leaf_table(params)
    assert trees.leaf_table(batch_stats) == trees.leaf_table(state['batch_stats'])
    everything = jax.tree.leaves((params, batch_stats, loss, metrics, embeddings))
    assert {x.dtype for x in everything} == {jnp.dtype('float32')}
    variables = {'params': params['encoder'], 'batch_stats': batch_stats['encoder']}
    apply = functools.partial(encoder.network.clone(axis_name=None).apply, train=False)
    maps = jax.eval_shape(apply, variables, jnp.zeros((4, 32, 32, 1)))
    assert {m.dtype for m in maps.values()} == {jnp.dtype('bfloat16')}
