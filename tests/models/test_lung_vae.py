"""lungVAE against the golden vectors and, where these are blind, against plain NumPy."""

import json
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cxr_jax.models import lung_vae, torch_names
from data_pipelines.errors import UserError
from scripts.convert_lungvae import main as convert
from tests import numpy_layers as plain
from tests.conftest import GOLDEN

SMALL = GOLDEN / 'lungvae_nhid4_128x64.safetensors'
NETWORK = lung_vae.LungVAE(hidden=4)
OTHER_IMAGE = np.random.default_rng(0).random((1, 128, 64, 1), dtype='float32')


def variables_of(tensors):
    """Variables of the small network."""
    images = jnp.zeros((1, 128, 64, 1))
    shapes = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), images))
    trees = torch_names.fit(tensors, shapes['params'], shapes['batch_stats'], SMALL, 'it')
    return dict(zip(('params', 'batch_stats'), trees, strict=True))


@jax.jit
def apply_train(variables, images, key=None):
    return NETWORK.apply(variables, images, key=key, mutable=['batch_stats'])[0]


@jax.jit
def apply_eval(variables, images):
    return NETWORK.apply(variables, images, train=False)


def published_tensors():
    """Right names and shapes, random values."""
    rng = np.random.default_rng(0)
    shapes = json.loads((GOLDEN / 'lungvae_state_dict_shapes.json').read_text())
    return {name: rng.random(shape, dtype='float32') for name, shape in shapes.items()}


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_agrees_with_published_graph(golden, mode):
    """In training mode beside another image, whose statistics are its own."""
    vectors = golden('lungvae_nhid4_128x64')
    images = vectors['input_nchw'].transpose(0, 2, 3, 1)
    apply = apply_eval if mode == 'eval' else apply_train
    outputs = apply(variables_of(load_file(SMALL)), np.concatenate([images, OTHER_IMAGE]))
    logits, mean, log_variance = (output[:1] for output in outputs)
    np.testing.assert_allclose(logits.transpose(0, 3, 1, 2), vectors[f'logits_{mode}'], atol=1e-4)
    np.testing.assert_allclose(mean, vectors[f'mean_{mode}'], atol=1e-4)
    np.testing.assert_allclose(log_variance, vectors[f'logvar_{mode}'], atol=1e-4)


def plain_encoder(tensors, x, train):
    """Latent mean of x [1, 1, H, W]."""

    def conv(x, name):
        y = plain.convolution(x, tensors[f'{name}.weight'], 1, 1)
        return plain.relu(y + tensors[f'{name}.bias'][:, None, None])

    x = conv(conv(x, 'enc11'), 'enc12')
    for level in (2, 3, 4, 5):
        x = plain.batch_norm(plain.average_pool(x, 2), tensors, f'enc{level}.bn', train)
        x = conv(conv(x, f'enc{level}.enc1'), f'enc{level}.enc2')
    x = plain.relu(np.tensordot(tensors['bot11.weight'][0, :, 0], x[0], 1) + tensors['bot11.bias'])
    assert (x > 0).any()
    return tensors['bot12.weight'][:8, :, 0] @ x.ravel() + tensors['bot12.bias'][:8]


@pytest.mark.parametrize('train', [False, True])
def test_encoder_agrees_with_plain_numpy(golden, train):
    """The golden weights' bot11 is negative everywhere, so that its ReLU hides the encoder; here it
    is not."""
    tensors = load_file(SMALL)
    tensors['bot11.bias'] = tensors['bot11.bias'] + 1
    x = golden('lungvae_nhid4_128x64')['input_nchw']
    expected = plain_encoder({k: v.astype(float) for k, v in tensors.items()}, x, train)
    apply = apply_train if train else apply_eval
    _, mean, _ = apply(variables_of(tensors), np.concatenate([x[:, 0, ..., None], OTHER_IMAGE]))
    np.testing.assert_allclose(mean[0], expected, atol=1e-4)


def test_latent_is_sampled_with_a_key():
    variables, key = variables_of(load_file(SMALL)), jax.random.key(3)
    latents = []

    def spy(call, arguments, named, context):
        if context.method_name == 'latent_map':
            latents.append(arguments[0])
        return call(*arguments, **named)

    @jax.jit
    def encode(given):
        with nn.intercept_methods(spy):
            _, mean, log_variance = NETWORK.apply(variables, OTHER_IMAGE, False, given)
        return mean, log_variance, latents.pop()

    mean, log_variance, latent = encode(None)
    np.testing.assert_array_equal(latent, mean)
    _, _, latent = encode(key)
    noise = (latent - mean) / np.exp(log_variance / 2)
    np.testing.assert_allclose(noise, jax.random.normal(key, (1, 8)), atol=1e-5)


def test_published_size():
    tensors = published_tensors()
    assert len(tensors) == 132
    variables = lung_vae.fit(tensors, 'file')
    assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == 3_383_522
    np.testing.assert_array_equal(
        variables['params']['bot12']['kernel'], tensors['bot12.weight'][..., 0].T
    )
    assert variables['params']['bot12']['kernel'].shape == (1280, 16)


def test_wrong_file_lists_every_leaf(tmp_path):
    with pytest.raises(UserError) as error:
        lung_vae.load(SMALL)
    text = str(error.value)
    # All but bot11.bias, dec12.bias and bot12.bias, whose sizes the hidden width does not change.
    expected = len(jax.tree.leaves(lung_vae.fit(published_tensors(), 'file'))) - 3
    assert f'{expected} leaves differ' in text
    assert 'enc11.weight: in the file (4, 1, 3, 3), in the model (16, 1, 3, 3)' in text
    assert 'bot12.weight: in the file (16, 32, 1), in the model (16, 1280, 1)' in text

    tensors = published_tensors()
    tensors['module.dec5.bn.weight'] = tensors.pop('dec5.bn.weight')
    save_file(tensors, tmp_path / 'wrong.safetensors')
    with pytest.raises(UserError) as error:
        lung_vae.load(tmp_path / 'wrong.safetensors')
    assert '2 leaves differ' in str(error.value)
    assert 'dec5.bn.weight: in the file missing, in the model (512,)' in str(error.value)
    assert 'module.dec5.bn.weight: in the file (512,), not in the model' in str(error.value)

    for content in (b'', b'not safetensors at all'):
        (tmp_path / 'broken').write_bytes(content)
        with pytest.raises(UserError, match='scripts.convert_lungvae'):
            lung_vae.load(tmp_path / 'broken')


class Tensor:
    """As much of a torch.Tensor as the converter uses."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


@pytest.fixture
def torch(monkeypatch):
    """PyTorch whose load() returns what the test puts there, or raises it."""
    module = types.ModuleType('torch')

    def load(path, map_location, weights_only):
        assert weights_only is True
        if isinstance(module.content, Exception):
            raise module.content
        return module.content

    module.load = load
    monkeypatch.setitem(sys.modules, 'torch', module)
    return module


def test_converter(torch, tmp_path):
    tensors = published_tensors()
    # As in a state_dict of transposed tensors: not contiguous.
    tensors['bot12.weight'] = np.asfortranarray(tensors['bot12.weight'])
    torch.content = {name: Tensor(array) for name, array in tensors.items()}
    target = tmp_path / 'lungvae.safetensors'
    assert convert(['lungVAE.pt', str(target)]) == 0
    written = load_file(target)
    assert written.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(written[name], array)
    lung_vae.load(target)


def test_converter_refuses(torch, tmp_path, capsys):
    target = tmp_path / 'lungvae.safetensors'

    def refused(*expected):
        assert convert(['lungVAE.pt', str(target)]) == 2
        message = capsys.readouterr().err
        assert all(words in message for words in expected), message
        assert not target.exists()

    torch.content = {name: Tensor(array) for name, array in load_file(SMALL).items()}
    refused('lungVAE.pt', 'enc11.weight: in the file (4, 1, 3, 3)', 'leaves differ')
    torch.content = {'state_dict': {}}
    refused('lungVAE.pt holds a dict, not a state_dict')
    torch.content = [1, 2]
    refused('lungVAE.pt holds a list, not a state_dict')
    torch.content = FileNotFoundError(2, 'No such file or directory')
    refused('lungVAE.pt cannot be read', 'No such file')
    torch.content = {name: Tensor(array) for name, array in published_tensors().items()}
    target = tmp_path / 'absent' / 'lungvae.safetensors'
    refused('absent', 'cannot be written')


def test_converter_without_torch(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert convert([str(SMALL), str(tmp_path / 'out')]) == 2
    assert 'pip install torch' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
