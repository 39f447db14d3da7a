"""Loads a ResNet's weights from a safetensors file with torchvision's names, strictly."""

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


def torchvision_name(path: tuple[str, ...]) -> str:
    """Our leaf ('layer1_0', 'downsample_bn', 'scale') -> 'layer1.0.downsample.1.weight'."""
    modules = '.'.join(path[:-1]).replace('downsample_conv', 'downsample.0')
    modules = modules.replace('downsample_bn', 'downsample.1')
    block, _, rest = modules.partition('.')
    return '.'.join(filter(None, [block.replace('_', '.'), rest, LEAF_NAMES[path[-1]]]))


def load_resnet(path: str | pathlib.Path, params: dict, batch_stats: dict) -> tuple[dict, dict]:
    """Weights of `path` in the structure of `params` and `batch_stats` (a ResNet's, nested dicts).

    A 3-channel stem is summed over its channels when `params` has one input channel: the same
    output as repeating a grey image three times. The classifier (`fc.*`) is not the backbone's and
    is left out. Any other missing, surplus or misshapen leaf raises UserError with the whole list.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f'The weights file {path} cannot be read ({error}). Name a .safetensors file with '
            "torchvision's ResNet names, as `safetensors.torch.save_file(model.state_dict(), ...)` "
            'writes it.'
        ) from error
    wrong: list[str] = []
    trees = tuple(_fill(tree, (), tensors, wrong) for tree in (params, batch_stats))
    known = {'fc.weight', 'fc.bias'}
    surplus = [n for n in tensors if n not in known and not n.endswith('num_batches_tracked')]
    wrong += [f'  {name}: in the file {tensors[name].shape}, not in the model' for name in surplus]
    if wrong:
        raise UserError(
            f'The weights in {path} do not fit the backbone; check --config.backbone (depth, '
            f'width). {len(wrong)} leaves differ:\n' + '\n'.join(wrong)
        )
    return trees


def _fill(tree: dict, prefix: tuple, tensors: dict, wrong: list) -> dict:
    filled = {}
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, dict):
            filled[key] = _fill(value, path, tensors, wrong)
            continue
        name = torchvision_name(path)
        array = tensors.pop(name, None)
        if array is not None and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
            if name == 'conv1.weight' and array.shape[2] == 3 and value.shape[2] == 1:
                array = array.sum(2, keepdims=True)
        if array is None or array.shape != value.shape:
            found = 'missing' if array is None else f'{array.shape}'
            wrong.append(f'  {name}: in the file {found}, in the model {value.shape}')
            continue
        filled[key] = np.asarray(array, np.float32)
    return filled
