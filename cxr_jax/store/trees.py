"""Trees of arrays: their leaves by name, their hash, whether they fit and are finite."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError


def as_dict(state) -> dict:
    """{field: tree}: what a checkpoint holds of a TrainState."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def leaf_table(tree) -> dict[str, tuple]:
    """{'layer1_0/conv1/kernel': (shape, dtype)}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): (tuple(x.shape), str(x.dtype))
        for path, x in leaves
    }


def hand_over_backbone(parent: dict, expected: dict, source: str) -> dict:
    """`parent` ({'params', 'batch_stats'} of a backbone) if every leaf fits `expected`.

    Strict on names, shapes and dtypes; otherwise UserError with every difference.
    """
    found, wanted = leaf_table(parent), leaf_table(expected)
    none = 'nothing'
    differences = [
        f'  {name}: {source} has {found.get(name, none)}, the model {wanted.get(name, none)}'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f'The backbone of {source} does not fit this model; {len(differences)} leaves differ '
            '(name: shape, dtype). Use the same --config.backbone as in the stage before.\n'
            + '\n'.join(differences)
        )
    return parent


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
