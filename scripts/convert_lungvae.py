"""Convert the published weights of lungVAE from PyTorch's .pt to safetensors.

    python -m scripts.convert_lungvae saved_models/lungVAE.pt lungvae.safetensors

The .pt file is in github.com/raghavian/lungVAE. Needs PyTorch, which nothing else here does. Only
tensors are read from the file, no code is run (weights_only).
"""

import argparse
import pathlib
import pickle
import sys

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cxr_jax.models import lung_vae
from data_pipelines.errors import UserError


def read_state_dict(path: pathlib.Path) -> dict:
    """{name: array} of a PyTorch file that holds a state_dict; UserError for any other file."""
    try:
        import torch
    except ImportError:
        raise UserError(
            'Reading a .pt file needs PyTorch, which is not installed here: pip install torch'
        ) from None
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition('\n')[0]
        raise UserError(
            f'{path} cannot be read ({reason}). Name the saved_models/lungVAE.pt of '
            'github.com/raghavian/lungVAE.'
        ) from None
    if not isinstance(tensors, dict) or not all(hasattr(t, 'numpy') for t in tensors.values()):
        raise UserError(
            f'{path} holds a {type(tensors).__name__}, not a state_dict of tensors. Name the '
            'saved_models/lungVAE.pt of github.com/raghavian/lungVAE.'
        )
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes `target`; UserError with every name and shape that is not the published network's."""
    tensors = read_state_dict(source)
    lung_vae.fit(tensors, source)
    try:
        save_file(tensors, target)
    except (OSError, SafetensorError) as error:
        raise UserError(f'{target} cannot be written ({error}).') from None
    print(f'{target}: {len(tensors)} tensors')


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('source', type=pathlib.Path, help='the published .pt file')
    parser.add_argument('target', type=pathlib.Path, help='the .safetensors file to write')
    options = parser.parse_args(arguments)
    try:
        convert(options.source, options.target)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
