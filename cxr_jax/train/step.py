"""One optimisation step of any task: the only value_and_grad, the only shard_map for training."""

import jax
import jax.numpy as jnp
import optax

from cxr_jax.runtime import parallel
from cxr_jax.train.optim import descend
from cxr_jax.train.state import STACKED
from cxr_jax.views.region import prepare_images


def make_views(task, key, batch: dict, region: str, gray: float) -> dict:
    """The task's views of this device's rows of a batch."""
    share = batch['image'].shape[0]
    rows = jax.lax.axis_index(parallel.AXIS) * share + jnp.arange(share)
    # Each example's key comes from its global row, so any number of devices sees these views.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    example = {'image': prepare_images(batch, region, gray), 'label': batch['label']}
    if task.needs_masks:
        example['lung_mask'] = batch['lung_mask']
    return jax.vmap(task.views)(keys, example)


def make_train_step(
    task, backbone, transform, factor, mesh, region: str, gray: float, together: bool = False
):
    """Compiled (state, batch) -> (state, metrics); the state is donated.

    `transform` of optim.optimizer; `factor` of optim.rate_factor, times the state's peak rate.

    batch: image [B, R, R, 1] uint8 or uint16, label [B], lung_mask where the region or
    the task needs it; rows sharded over the mesh. metrics: scalars, mean over the global batch.
    """

    def step(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        view_key, loss_key = jax.random.split(key)
        views = make_views(task, view_key, batch, region, gray)

        def loss_function(params):
            loss, aux = task.loss(backbone, params, state, views, loss_key)
            return parallel.mean(loss), aux

        (loss, (batch_stats, extra, metrics)), grads = jax.value_and_grad(
            loss_function, has_aux=True
        )(state.params)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        rate = state.lr * factor(state.step)
        params = descend(state.params, updates, rate)
        params, extra = task.after_update(params, extra, state.step)
        metrics = parallel.mean(metrics) | {
            'loss': loss,
            'grad_norm': optax.tree.norm(grads),
            'learning_rate': rate,
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            extra=extra,
        )
        return state, metrics

    if together:
        step = jax.vmap(step, in_axes=(STACKED, None), out_axes=(STACKED, 0))
    return parallel.sharded(step, mesh, (False, True), (False, False), donate=(0,))
