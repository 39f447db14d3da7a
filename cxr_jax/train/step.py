"""One optimisation step of any task: the only value_and_grad, the only shard_map for training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from cxr_jax.runtime import parallel
from cxr_jax.tasks.distil import own_state
from cxr_jax.train.optim import descend
from cxr_jax.train.state import STACKED, layout


def make_views(task, encoder, key, batch: dict) -> dict:
    """The task's views of this device's rows of a batch: stored pixels, and what it `needs`."""
    share = batch['image'].shape[0]
    rows = jax.lax.axis_index(parallel.AXIS) * share + jnp.arange(share)
    # Each example's key comes from its global row, so any number of devices sees these views.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    example = {'image': encoder.contract.images(batch)} | {name: batch[name] for name in task.needs}
    return jax.vmap(task.views)(keys, example)


def make_train_step(task, encoder, transform, factor, mesh, together: bool = False):
    """Compiled (state, batch) -> (state, metrics, seen); the state is donated.

    `transform` of optim.optimizer; `factor` of optim.rate_factor, times the state's peak rate.

    batch: image [B, R, R, 1] uint8 or uint16, lung_mask where the encoder's region needs it, and
    what the task needs; rows sharded over the mesh. metrics: scalars, mean over the global batch.
    seen: {'embeddings', 'assignments'} of the batch as the loss told them, rows sharded: computed
    anyway, and fetched by monitors alone.
    """
    unscheduled = {part for part, rule in task.rules.items() if not rule.get('scheduled', True)}

    def step(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        view_key, loss_key = jax.random.split(key)
        views = make_views(task, encoder, view_key, batch)

        def loss_function(params):
            loss, aux = task.loss(encoder, params, state, views, loss_key)
            return parallel.mean(loss), aux

        (loss, aux), grads = jax.value_and_grad(loss_function, has_aux=True)(state.params)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        rate = state.lr * factor(state.step)
        params = {
            part: descend(tree, updates[part], state.lr if part in unscheduled else rate)
            for part, tree in state.params.items()
        }
        params, extra = task.after_update(params, aux.extra, state.step)
        metrics = parallel.mean(aux.metrics) | {
            'loss': loss,
            'grad_norm': optax.tree.norm(grads),
            'learning_rate': rate,
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=aux.batch_stats,
            opt_state=opt_state,
            extra=extra,
        )
        return state, metrics, {'embeddings': aux.embeddings, 'assignments': aux.assignments}

    rows = PartitionSpec(parallel.AXIS)
    if together:
        step = jax.vmap(step, in_axes=(STACKED, None), out_axes=(STACKED, 0, 0))
    seen = PartitionSpec(None, parallel.AXIS) if together else rows

    def on_mesh(state, batch):
        spread = layout(task, state, together)
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(spread, rows), out_specs=(spread, PartitionSpec(), seen)
        )
        return mapped(state, batch)

    return jax.jit(on_mesh, donate_argnums=0)


def make_observation(task, encoder, mesh, seed: int):
    """Compiled (state, batch, number) -> (loss, metrics, embeddings) of a batch; nothing changes.

    Views are drawn anew for each `number` but always alike; batch statistics as in training. The
    loss is the task's own, also where one is distilled into it.
    embeddings: {view: [B, D]}, rows sharded.
    """

    def observe(state, batch, key):
        view_key, loss_key = jax.random.split(jax.random.wrap_key_data(key))
        views = make_views(task, encoder, view_key, batch)
        state = own_state(state)
        loss, aux = task.loss(encoder, state.params, state, views, loss_key)
        return parallel.mean(loss), parallel.mean(aux.metrics), aux.embeddings

    rows, alike = PartitionSpec(parallel.AXIS), PartitionSpec()

    @jax.jit
    def on_mesh(state, batch, key):
        mapped = jax.shard_map(
            observe, mesh=mesh, in_specs=(layout(task, state), rows, alike),
            out_specs=(alike, alike, rows),
        )  # fmt: skip
        return mapped(state, batch, key)

    def observation(state, batch, number: int):
        # Not inside: other seeds find the program compiled.
        key = jax.random.fold_in(jax.random.key(seed), np.uint32(number))
        return on_mesh(state, batch, np.asarray(jax.random.key_data(key)))

    return observation
