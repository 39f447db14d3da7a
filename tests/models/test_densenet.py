"""DenseNet-121 against torchvision's names, sizes and published number of parameters, and against
the whole network in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax.models.densenet import SMALLEST_IMAGE, DenseNet
from cxr_jax.models.resnet import ResNet
from cxr_jax.models.torch_names import load_weights
from data_pipelines.errors import UserError
from tests import numpy_layers as plain

WIDTH, GROWTH, BLOCKS = 8, 4, (6, 12, 24, 16)


def torchvision_shapes(width, growth, channels=3):
    """{name: shape} of torchvision's densenet121, all but the counters."""
    shapes = {'features.conv0.weight': (width, channels, 7, 7)}

    def norm(name, features):
        for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.{leaf}'] = (features,)

    norm('features.norm0', width)
    features = width
    for i, layers in enumerate(BLOCKS, 1):
        for j in range(1, layers + 1):
            layer = f'features.denseblock{i}.denselayer{j}'
            norm(f'{layer}.norm1', features)
            shapes[f'{layer}.conv1.weight'] = (4 * growth, features, 1, 1)
            norm(f'{layer}.norm2', 4 * growth)
            shapes[f'{layer}.conv2.weight'] = (growth, 4 * growth, 3, 3)
            features += growth
        if i < 4:
            norm(f'features.transition{i}.norm', features)
            shapes[f'features.transition{i}.conv.weight'] = (features // 2, features, 1, 1)
            features //= 2
    norm('features.norm5', features)
    return shapes | {'classifier.weight': (1000, features), 'classifier.bias': (1000,)}


@functools.cache
def random_tensors():
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in torchvision_shapes(WIDTH, GROWTH).items():
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        if name.endswith('running_var') or ('norm' in name and name.endswith('weight')):
            values = rng.uniform(0.5, 2, shape)
        tensors[name] = values.astype('float32')
    counters = {
        name.replace('running_var', 'num_batches_tracked'): np.array(7)
        for name in tensors
        if name.endswith('running_var')
    }
    return tensors | counters


def reference(tensors, x, train):
    """Maps of torchvision's blocks, the last one after the last ReLU; x [B, C, H, W] in float64."""
    maps = []

    def norm_relu(x, name):
        return plain.relu(plain.batch_norm(x, tensors, f'features.{name}', train))

    def conv(x, name, *geometry):
        return plain.convolution(x, tensors[f'features.{name}.weight'].astype(float), *geometry)

    x = plain.max_pool(norm_relu(conv(x, 'conv0', 2, 3), 'norm0'))
    for i, layers in enumerate(BLOCKS, 1):
        for j in range(1, layers + 1):
            name = f'denseblock{i}.denselayer{j}'
            y = conv(norm_relu(x, f'{name}.norm1'), f'{name}.conv1')
            y = conv(norm_relu(y, f'{name}.norm2'), f'{name}.conv2', 1, 1)
            x = np.concatenate([x, y], axis=1)
        maps.append(x)
        if i < 4:
            x = conv(norm_relu(x, f'transition{i}.norm'), f'transition{i}.conv')
            x = plain.average_pool(x, 2)
    return [*maps[:-1], norm_relu(x, 'norm5')]


def shapes_of(network, channels=3, size=64):
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(functools.partial(network.init, train=True), jax.random.key(0), images)


def load(path, channels=3, network=None):
    shapes = shapes_of(network or DenseNet(WIDTH), channels)
    params, stats = load_weights(path, shapes['params'], shapes['batch_stats'])
    return {'params': params, 'batch_stats': stats}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """safetensors file as torchvision's state_dict would be saved."""
    path = tmp_path_factory.mktemp('densenet') / 'weights.safetensors'
    save_file(random_tensors(), path)
    return path


def test_number_of_parameters():
    """7,978,856 with torchvision's classifier of 1,000 classes."""
    published = torchvision_shapes(64, 32)
    parameters = {n: s for n, s in published.items() if 'running' not in n}
    assert sum(np.prod(shape) for shape in parameters.values()) == 7_978_856
    leaves = jax.tree.leaves(shapes_of(DenseNet())['params'])
    assert sum(leaf.size for leaf in leaves) == 6_953_856 == 7_978_856 - 1025 * 1000


@pytest.mark.parametrize('train', [False, True])
def test_agrees_with_plain_numpy(weights, train):
    """From the file's names to every block's map, in float64; in training two groups of two images,
    each with batch statistics of its own."""
    images = np.random.default_rng(1).normal(size=(4, 3, 64, 72))
    groups = 2 if train else 1
    halves = [reference(random_tensors(), part, train) for part in np.split(images, groups)]
    with jax.enable_x64(True):
        network = DenseNet(WIDTH, dtype=jnp.float64)
        maps, _ = jax.jit(
            lambda variables, x: network.apply(
                variables, x, train=train, groups=groups, mutable=['batch_stats']
            )
        )(load(weights), jnp.asarray(images.transpose(0, 2, 3, 1)))
    assert tuple(maps) == network.stages
    assert maps['block4'].shape == (4, 2, 2, network.feature_width)
    for found, parts in zip(maps.values(), zip(*halves, strict=True), strict=True):
        expected = np.concatenate(parts).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * expected.max())


def test_folded_stem(weights):
    tensors = random_tensors()
    kernel = load(weights, channels=1)['params']['features_conv0']['kernel']
    grey = np.random.default_rng(2).normal(size=(1, 1, 7, 7))
    three = plain.convolution(grey.repeat(3, 1), tensors['features.conv0.weight'])
    one = plain.convolution(grey, kernel.transpose(3, 2, 0, 1))
    np.testing.assert_allclose(one, three, atol=1e-6)


def test_refused_weights(weights, tmp_path):
    """A ResNet's model, then a renamed, a misshapen and a surplus leaf: every one is listed."""
    with pytest.raises(UserError) as error:
        load(weights, network=ResNet(18, WIDTH))
    text = str(error.value)
    assert 'conv1.weight: in the file missing, in the model (8, 3, 7, 7)' in text
    assert 'classifier.bias: in the file (1000,), not in the model' in text
    leaves = len(jax.tree.leaves(shapes_of(ResNet(18, WIDTH))))
    assert f'{leaves + len(torchvision_shapes(8, 4))} leaves differ' in text

    tensors = dict(random_tensors())
    layer = 'features.denseblock2.denselayer3'
    tensors[f'{layer}.norm.1.weight'] = tensors.pop(f'{layer}.norm1.weight')
    tensors['features.norm5.bias'] = np.zeros(7, 'float32')
    tensors['fc.bias'] = np.zeros(7, 'float32')
    save_file(tensors, tmp_path / 'wrong.safetensors')
    with pytest.raises(UserError) as error:
        load(tmp_path / 'wrong.safetensors')
    text = str(error.value)
    features = tensors[f'{layer}.norm.1.weight'].shape
    assert '4 leaves differ' in text
    assert f'{layer}.norm1.weight: in the file missing, in the model {features}' in text
    assert f'{layer}.norm.1.weight: in the file {features}, not in the model' in text
    assert 'features.norm5.bias: in the file (7,), in the model (128,)' in text
    assert 'fc.bias: in the file (7,), not in the model' in text


def test_smallest_image():
    shapes_of(DenseNet(WIDTH), size=SMALLEST_IMAGE)
    with pytest.raises(UserError, match='28 x 28 pixels; give it 29.*encoder.name=resnet18'):
        shapes_of(DenseNet(WIDTH), size=SMALLEST_IMAGE - 1)
    # 29 px are the fewest of which the reference has a pixel left after its five halvings.
    for size, left in ((SMALLEST_IMAGE, 1), (SMALLEST_IMAGE - 1, 0)):
        x = np.zeros((1, 1, size, size))
        x = plain.max_pool(plain.convolution(x, np.zeros((1, 1, 7, 7)), 2, 3))
        for _ in range(3):
            x = plain.average_pool(x, 2)
        assert x.shape[2] == left
