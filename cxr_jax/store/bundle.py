"""What a finished stage leaves for everybody else: `bundle.json` and one safetensors file per part.

A bundle is a folder: a finished stage's own, or any copy of its files. A part (encoder, projector,
decoder, head ...) is {'params': tree, 'batch_stats': tree} of NumPy arrays; `<part>.safetensors`
has them by name, as 'params/layer1_0/conv1/kernel'.

Three things can be wrong, and they are told apart. Damaged: the bytes are not those that were
written. UserError: they are, and this version cannot use them. OSError: the system did not say.
"""

import pathlib
import re

from cxr_jax.store import trees
from cxr_jax.store.arrays import Leaf, read_arrays, read_table, write_arrays
from cxr_jax.store.files import Damaged, exists, read_sealed, write_sealed
from data_pipelines.errors import UserError

BUNDLE = 'bundle.json'
FORMAT = 1
KINDS = ('params', 'batch_stats')
PART = re.compile(r'[a-z][a-z0-9_]*')
OWN = ('format', 'parts', 'sha256')  # entries of bundle.json that are no part of a description


def write_bundle(folder: pathlib.Path, parts: dict[str, dict], description: dict) -> dict:
    """Writes every part and then bundle.json, each whole or not at all and forced to disk.

    `description`: what JSON can hold, under names other than those of OWN. Returns what
    read_description will.
    """
    taken = sorted({*OWN} & description.keys())
    strange = [name for name in parts if not PART.fullmatch(name)]
    if taken or strange:
        raise ValueError(f'a bundle cannot have entries {taken} or parts {strange}')
    told = {}
    for name, part in parts.items():
        arrays = trees.by_name({kind: part[kind] for kind in KINDS})
        write_arrays(folder / f'{name}.safetensors', arrays)
        told[name] = {
            'sha256': part_sha256(part),
            'arrays': len(arrays),
            'bytes': sum(array.nbytes for array in arrays.values()),
        }
    content = {'format': FORMAT, **description, 'parts': told}
    return write_sealed(folder / BUNDLE, content)


def read_description(folder: pathlib.Path) -> dict:
    """The content of bundle.json, whose own hash was checked; no part is opened."""
    try:
        return read_sealed(folder / BUNDLE, FORMAT)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_bundle(folder) from None


def read_parts(folder: pathlib.Path, names: tuple[str, ...] | None = None) -> dict[str, dict]:
    """{part: {'params', 'batch_stats'}} of those named (None: of all), their hashes checked."""
    told = read_description(folder)['parts']
    _check_names(folder, told, told if names is None else names)
    parts = {}
    for name in told if names is None else names:
        path = folder / f'{name}.safetensors'
        try:
            arrays = read_arrays(path)
        except FileNotFoundError:
            raise Damaged(f'{folder} is damaged: {path.name} is missing.') from None
        if trees.sha256(arrays) != told[name]['sha256']:
            raise Damaged(f'{path} is damaged: its arrays are not those that were written.')
        parts[name] = {kind: {} for kind in KINDS} | trees.nested(arrays)
    return parts


def read_tables(folder: pathlib.Path) -> dict[str, dict[str, Leaf]]:
    """{part: {array: Leaf}} of every part, from the heads of its files."""
    tables, told = {}, read_description(folder)['parts']
    _check_names(folder, told, told)
    for name in told:
        try:
            tables[name] = read_table(folder / f'{name}.safetensors')
        except FileNotFoundError:
            raise Damaged(f'{folder} is damaged: {name}.safetensors is missing.') from None
    return tables


def part_sha256(part: dict) -> str:
    """Hash of a part as bundle.json tells it: names, shapes, dtypes and bytes (trees.sha256)."""
    return trees.sha256(trees.by_name({kind: part[kind] for kind in KINDS}))


def fit(part: dict, like: dict, what: str) -> dict:
    """`part` in the structure of `like`; UserError as check_fit."""
    check_fit(part, like, what)
    return trees.like_tree(trees.by_name(part), like)


def check_fit(part: dict, like: dict, what: str) -> None:
    """UserError with every difference in the names, shapes and dtypes of two trees' leaves.

    `what` names the part in it, as 'encoder of stage moco'.
    """
    tables = trees.leaf_table(part), trees.leaf_table(like)
    differences = trees.table_differences(*tables, 'it', 'this model')
    if differences:
        raise UserError(
            f'The {what} does not fit this model; {len(differences)} arrays differ (name: shape, '
            'dtype). Use the settings it was trained with (of an encoder: --config.encoder), or '
            'start from something else.\n' + '\n'.join(differences)
        )


def _check_names(folder: pathlib.Path, told: dict, names) -> None:
    unknown = [name for name in names if name not in told or not PART.fullmatch(name)]
    if unknown:
        raise UserError(
            f'{folder} has no part {", ".join(unknown)}; it has {", ".join(sorted(told))}. Name '
            'another folder, or a task that takes what is there.'
        )


def _no_bundle(folder: pathlib.Path) -> UserError:
    if not exists(folder):
        return UserError(f'There is no folder {folder}; name that of a finished stage, or a copy.')
    if exists(folder / 'manifest.json'):
        return UserError(
            f'{folder} was written by an earlier version of cxr_jax, which this one cannot read. '
            'Use that version, or name another folder.'
        )
    return Damaged(
        f'{folder} has no {BUNDLE}: it is not the folder of a finished stage or a copy of one, or '
        'it is damaged.'
    )
