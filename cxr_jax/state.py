"""TrainState: every array that changes during a stage. What is not in it is lost on resume."""

import hashlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError


@flax.struct.dataclass
class TrainState:
    """params and batch_stats are {'backbone': ..., 'head': ...}; `key` is raw PRNG key data.

    `lr` is the peak learning rate: an array, so that trials at different rates share one program.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: tuple
    extra: dict
    key: jax.Array
    lr: jax.Array


# Axes of several trials' states in one: they share the step and the keys, as each would alone.
STACKED = TrainState(step=None, params=0, batch_stats=0, opt_state=0, extra=0, key=None, lr=0)


def stack(states: list[TrainState]) -> TrainState:
    """Several states at one step as one, along the axes of STACKED."""
    first = states[0]
    stacked = {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *[getattr(s, name) for s in states])
        for name, axis in as_dict(STACKED).items()
        if axis is not None
    }
    return first.replace(**stacked)


def unstack(state: TrainState, number: int) -> TrainState:
    """State number `number` of stacked ones."""
    own = {
        name: jax.tree.map(lambda leaf: leaf[number], getattr(state, name))
        for name, axis in as_dict(STACKED).items()
        if axis is not None
    }
    return state.replace(**own)


def as_dict(state: TrainState) -> dict:
    """{field: tree}: what a checkpoint holds."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def create(task, backbone, transform, backbone_params, backbone_stats, seed_key, lr) -> TrainState:
    """State at step 0 of a stage: the given backbone, a new head, extra and optimiser."""
    head_key, run_key = jax.random.split(seed_key)
    head, head_stats, extra = task.init(head_key, backbone, backbone_params, backbone_stats)
    params = {'backbone': backbone_params, 'head': head}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={'backbone': backbone_stats, 'head': head_stats},
        opt_state=transform.init(params),
        extra=extra,
        key=jax.random.key_data(run_key),
        lr=jnp.asarray(lr, jnp.float32),
    )


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
