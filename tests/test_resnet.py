import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models.conv import conv2d, max_pool, winograd, xla_convolution
from cxr_jax.models.resnet import ResNet
from cxr_jax.models.torch_weights import load_weights
from data_pipelines.errors import UserError
from tests.conftest import GOLDEN


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
    features, layers = network.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: 'layer1' in (module.name or ''),
    )
    np.testing.assert_allclose(features.mean((1, 2)), vectors['pooled_eval'], atol=1e-4)
    last = max(layers['intermediates'])
    layer1 = layers['intermediates'][last]['__call__'][0].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(layer1, vectors['layer1_eval_nchw'], atol=1e-4)
    trained, _ = network.apply(variables, images, train=True, mutable=['batch_stats'])
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
    np.testing.assert_allclose(one, three, atol=1e-4)


def test_wrong_width_lists_every_leaf():
    shapes = jax.eval_shape(
        lambda: ResNet(18, width=16).init(jax.random.key(0), jnp.zeros((2, 64, 64, 3)), train=True)
    )
    path = GOLDEN / 'resnet18_width8_torchvision.safetensors'
    with pytest.raises(UserError) as error:
        load_weights(path, shapes['params'], shapes['batch_stats'])
    leaves = len(jax.tree.leaves(shapes))
    assert f'{leaves} leaves differ' in str(error.value)
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
