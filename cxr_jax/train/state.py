"""TrainState: every array that changes during a stage. What is not in it is lost on resume."""

import flax.struct
import jax
import jax.numpy as jnp

from cxr_jax.store.trees import as_dict


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
