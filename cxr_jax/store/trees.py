"""Trees of arrays: leaves by name, hash, differences, and whether all is finite."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


def as_dict(state) -> dict:
    """{field: tree}: what a checkpoint holds of a TrainState."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def name_of(path: tuple) -> str:
    """'layer1_0/conv1/kernel' of a leaf's path in its tree."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def leaf_table(tree) -> dict[str, tuple]:
    """{'layer1_0/conv1/kernel': (shape, dtype)}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaves}


def by_name(tree) -> dict[str, np.ndarray]:
    """{'layer1_0/conv1/kernel': array} in NumPy."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): np.asarray(leaf) for path, leaf in leaves}


def nested(arrays: dict) -> dict:
    """Dicts in dicts of arrays by name: what by_name undoes."""
    tree = {}
    for name, array in arrays.items():
        *folders, last = name.split('/')
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return tree


def like_tree(arrays: dict, like):
    """The arrays by name in the structure of `like`, which has leaves of just these names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[name_of(path)], like)


def table_differences(found: dict, expected: dict, left: str, right: str) -> list[str]:
    """One line for every entry that is not the same in two leaf tables."""

    def told(table, name):
        if name not in table:
            return 'nothing'
        shape, dtype = table[name]
        return f'{list(shape)} {dtype}'

    return [
        f'  {name}: {left} has {told(found, name)}, {right} {told(expected, name)}'
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


@jax.jit
def _all_finite(tree):
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def is_finite(tree) -> bool:
    """Whether no leaf has a NaN or an infinity."""
    return bool(_all_finite(tree))


def sha256(tree) -> str:
    """Hash of all leaves: names, shapes, dtypes and bytes, in order of their names."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.asarray(leaf)
        digest.update(f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
