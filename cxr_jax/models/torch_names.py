"""Loads published PyTorch weights from a safetensors file, strictly.

Our modules bear the published names, dots as underscores in the outermost one, so that loading is a
renaming and a change of layout.
"""

import pathlib

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from data_pipelines.errors import UserError

LEAF_NAMES = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}
# Stem of each of torchvision's networks: the classifier behind the network, which is left out.
CLASSIFIERS = {'conv1.weight': 'fc', 'features.conv0.weight': 'classifier'}


def published_name(path: tuple[str, ...]) -> str:
    """Our leaf ('layer1_0', 'downsample_bn', 'scale') -> 'layer1.0.downsample.1.weight'."""
    modules = '.'.join(path[:-1]).replace('downsample_conv', 'downsample.0')
    modules = modules.replace('downsample_bn', 'downsample.1')
    block, _, rest = modules.partition('.')
    return '.'.join(filter(None, [block.replace('_', '.'), rest, LEAF_NAMES[path[-1]]]))


def load_weights(path: str | pathlib.Path, params: dict, batch_stats: dict) -> tuple[dict, dict]:
    """Weights of `path` in the structure of an encoder's `params` and `batch_stats`.

    A ResNet or DenseNet with torchvision's names. A 3-channel stem is summed over its channels when
    `params` has one input channel: the same output as repeating a grey image three times. The
    classifier is not the encoder's and is left out. Any other missing, surplus or misshapen leaf
    raises UserError with the whole list.
    """
    tensors = read_tensors(
        path,
        "with torchvision's names of a ResNet or DenseNet, as "
        '`safetensors.torch.save_file(model.state_dict(), ...)` writes it',
    )
    wrong_file = 'the encoder; check --config.encoder.name, .width and .channels'
    return fit(tensors, params, batch_stats, path, wrong_file)


def read_tensors(path: str | pathlib.Path, kind: str) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file; UserError that asks for one of `kind` otherwise."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f'The weights file {path} cannot be read ({error}). Name a .safetensors file {kind}.'
        ) from error


def fit(
    tensors: dict[str, np.ndarray], params: dict, batch_stats: dict, path, model: str
) -> tuple[dict, dict]:
    """The named tensors in the structure of `params` and `batch_stats` (nested dicts of anything
    with a shape), as load_weights describes; `path` and `model` are for the error's text.
    """
    left = {n: t for n, t in tensors.items() if not n.endswith('num_batches_tracked')}
    wrong: list[str] = []
    trees = tuple(_fill(tree, (), left, wrong) for tree in (params, batch_stats))
    for stem in CLASSIFIERS.keys() & {published_name((name, 'kernel')) for name in params}:
        for leaf in ('weight', 'bias'):
            left.pop(f'{CLASSIFIERS[stem]}.{leaf}', None)
    wrong += [f'  {name}: in the file {left[name].shape}, not in the model' for name in left]
    if wrong:
        raise UserError(
            f'The weights in {path} do not fit {model}. {len(wrong)} leaves differ:\n'
            + '\n'.join(wrong)
        )
    return trees


def _fill(tree: dict, prefix: tuple, left: dict, wrong: list) -> dict:
    """`tree` with the tensors of its names, which are taken out of `left`."""
    filled = {}
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, dict):
            filled[key] = _fill(value, path, left, wrong)
            continue
        name = published_name(path)
        array = left.pop(name, None)
        expected = _published_shape(value.shape)
        if array is None:
            wrong.append(f'  {name}: in the file missing, in the model {expected}')
            continue
        if name in CLASSIFIERS and array.shape[1:2] == (3,) and expected[1] == 1:
            array = array.sum(1, keepdims=True)
        if array.shape != expected:
            wrong.append(f'  {name}: in the file {array.shape}, in the model {expected}')
            continue
        filled[key] = _our_layout(np.asarray(array, np.float32))
    return filled


def _published_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a convolution's kernel [k, k, C, O] -> [O, C, k, k], a dense one's [C, O] -> [O, C, 1]
    (it is published as a convolution over positions), a vector's as it is."""
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return (*shape[::-1], 1) if len(shape) == 2 else shape


def _our_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array[..., 0].T if array.ndim == 3 else array
