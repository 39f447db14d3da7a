"""Named NumPy arrays in one safetensors file, and their names, shapes and dtypes alone.

No device is touched. Whatever the system refuses is an OSError as it came.
"""

import dataclasses
import json
import math
import pathlib

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from cxr_jax.store.files import Damaged, write_atomically

DTYPES = {
    'BOOL': bool, 'U8': np.uint8, 'I8': np.int8, 'U16': np.uint16, 'I16': np.int16,
    'U32': np.uint32, 'I32': np.int32, 'U64': np.uint64, 'I64': np.int64, 'F16': np.float16,
    'BF16': ml_dtypes.bfloat16, 'F32': np.float32, 'F64': np.float64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or bfloat16

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays, whole or not at all, forced to disk; TypeError for another dtype."""
    for name, array in arrays.items():
        if array.dtype not in list(DTYPES.values()):
            raise TypeError(f'{name} is of {array.dtype}, which {path} cannot hold')
    # safetensors writes the memory as it lies, also that of a transposed array.
    dense = {name: np.asarray(array, order='C') for name, array in arrays.items()}
    # In memory first: safetensors hides what the system says of a full disk.
    content = safetensors.numpy.save(dense)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file; Damaged if it cannot be decoded."""
    content = path.read_bytes()
    try:
        return {
            name: np.frombuffer(entry['data'], DTYPES[entry['dtype']]).reshape(entry['shape'])
            for name, entry in safetensors.deserialize(content)
        }
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f'{path} is damaged: {error}.') from None


def read_table(path: pathlib.Path) -> dict[str, Leaf]:
    """{name: Leaf} of a file, sorted, from its header alone; Damaged if it has none."""
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        size = file.seek(0, 2)
        file.seek(8)
        header = file.read(min(length, size))
    try:
        entries = json.loads(header)
        entries.pop('__metadata__', None)
        return {
            name: Leaf(tuple(entry['shape']), np.dtype(DTYPES[entry['dtype']]).name)
            for name, entry in sorted(entries.items())
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f'{path} is damaged: its header cannot be read ({error}).') from None
