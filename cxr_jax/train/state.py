"""TrainState: every array that changes during a stage. What is not in it is lost on resume."""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cxr_jax.runtime.parallel import AXIS
from cxr_jax.store.bundle import check_fit
from cxr_jax.store.trees import as_dict


@flax.struct.dataclass
class TrainState:
    """params and batch_stats are {part: tree}: the encoder, and the parts of the stage's task.

    `key` is raw PRNG key data. `lr` is the peak learning rate: an array, so that trials at
    different rates share one program.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: tuple
    extra: dict
    key: jax.Array
    lr: jax.Array

    @property
    def parts(self) -> dict:
        """{part: {'params', 'batch_stats'}}, as stages hand them over."""
        return {
            part: {'params': tree, 'batch_stats': self.batch_stats[part]}
            for part, tree in self.params.items()
        }


# Axes of several trials' states in one: they share the step and the keys, as each would alone.
STACKED = TrainState(step=None, params=0, batch_stats=0, opt_state=0, extra=0, key=None, lr=0)


def layout(task, state: TrainState, together: bool = False) -> TrainState:
    """PartitionSpec of every leaf: what a task has by image is sharded, all else replicated."""
    specs = jax.tree.map(lambda leaf: PartitionSpec(), state)
    rows = PartitionSpec(None, AXIS) if together else PartitionSpec(AXIS)
    return specs.replace(extra=specs.extra | dict.fromkeys(task.by_image, rows))


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


def create(task, encoder, transform, parts: dict, seed_key, lr) -> TrainState:
    """State at step 0 of a stage: the parts that its task takes, its own new ones, a new optimiser.

    `parts` {part: {'params', 'batch_stats'}}: what the stage before left, the encoder at least.
    """
    head_key, run_key = jax.random.split(seed_key)
    own, own_stats, extra = task.init(head_key, encoder, parts)
    taken = {part: parts[part] for part in task.takes if part in parts and part in own}
    for part, tree in taken.items():
        like = {'params': own[part], 'batch_stats': own_stats[part]}
        check_fit(tree, like, f'part {part!r} that was handed over')
    taken['encoder'] = parts['encoder']
    params = own | {part: tree['params'] for part, tree in taken.items()}
    batch_stats = own_stats | {part: tree['batch_stats'] for part, tree in taken.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=transform.init(params),
        extra=extra,
        key=jax.random.key_data(run_key),
        lr=jnp.asarray(lr, jnp.float32),
    )
