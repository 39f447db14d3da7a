"""Optimisers and learning-rate schedules with the reference implementations' exact semantics."""

import jax
import jax.numpy as jnp
import optax


def rate_factor(config, total_steps: int, steps_per_epoch: int):
    """Schedule step -> factor of the peak learning rate, from a stage's `optimizer` config.

    `cosine`: from 1 to final_factor between the end of the warm-up and total_steps; `step`: times
    step_factor at each milestone (share of the stage); `constant`. With `by_epoch` the factor
    changes only at the start of an epoch (mmcv's default). Warm-up: (step + 1) / warm-up steps,
    or, with a `warmup_ratio` r > 0, mmcv's r + (1 - r)·step / warm-up steps.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    drops = [round(milestone * total_steps) for milestone in config.milestones]

    def schedule(step):
        step = jnp.asarray(step)
        position = step // steps_per_epoch * steps_per_epoch if config.by_epoch else step
        if config.schedule == 'cosine':
            progress = jnp.maximum(position - warmup, 0) / max(total_steps - warmup, 1)
            floor = config.final_factor
            factor = floor + 0.5 * (1 - floor) * (1 + jnp.cos(jnp.pi * progress))
        elif config.schedule == 'step':
            passed = sum(position >= drop for drop in drops)
            factor = config.step_factor ** jnp.asarray(passed, jnp.float32)
        else:
            factor = jnp.ones(())
        first = config.warmup_ratio
        # From nothing, the first step would be lost: it counts as one done.
        rising = first + (1 - first) * (step + (first == 0)) / max(warmup, 1)
        return jnp.where(step < warmup, rising * factor, factor)

    return schedule


def _decays(config, params) -> dict:
    """Weight decay of each top-level entry of `params`."""
    return {k: config.head_weight_decay if k == 'head' else config.weight_decay for k in params}


def add_decay(config):
    """g <- g + wd·w for every parameter, batch norm and biases included (torch.optim.SGD)."""

    def add(grads, params):
        return {
            k: jax.tree.map(lambda g, p, wd=decay: g + wd * p, grads[k], params[k])
            for k, decay in _decays(config, params).items()
        }

    return optax.stateless(add)


def lars_scaling(config, epsilon: float = 1e-8):
    """Decay and layer-wise trust ratio of apex's LARC without clipping, every parameter included.

    g <- trust·|w| / (|g| + wd·|w| + eps) · (g + wd·w); where |w| or |g| is zero, g is left as it
    is, without decay. The learning rate stays outside the momentum buffer (official SwAV).
    """

    def scale(grad, param, decay):
        grad_norm, param_norm = jnp.linalg.norm(grad), jnp.linalg.norm(param)
        ratio = config.trust * param_norm / (grad_norm + decay * param_norm + epsilon)
        scaled = ratio * (grad + decay * param)
        return jnp.where((param_norm > 0) & (grad_norm > 0), scaled, grad)

    def scale_all(grads, params):
        return {
            k: jax.tree.map(lambda g, p, wd=decay: scale(g, p, wd), grads[k], params[k])
            for k, decay in _decays(config, params).items()
        }

    return optax.stateless(scale_all)


def freeze_until(steps: dict[str, int]):
    """Zeroes what would enter the momentum of top-level head parameters before their step.

    Placed after the decay and before the momentum, whose buffer starts at zero, it stops the whole
    update, as a gradient of None does in PyTorch; a zero gradient alone would still decay.
    """

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        head = dict(updates['head'])
        for name, first_step in steps.items():
            moving = state.count >= first_step
            head[name] = optax.tree.scale(jnp.where(moving, 1.0, 0.0), head[name])
        state = optax.ScaleByScheduleState(count=optax.safe_increment(state.count))
        return dict(updates, head=head), state

    return optax.GradientTransformation(init, update)


def optimizer(config, frozen: dict[str, int] | None = None):
    """Gradient transformation of a stage's `optimizer` config: PyTorch's SGD, or SwAV's LARS.

    What it returns is still to be multiplied by minus the learning rate (`descend`), which is an
    array of the state, so that trials at different rates share one compiled step.
    """
    first = lars_scaling(config) if config.name == 'lars' else add_decay(config)
    chain = [first, optax.trace(config.momentum, config.nesterov)]
    if frozen:
        chain.insert(1, freeze_until(frozen))
    return optax.chain(*chain)


def descend(params, updates, rate):
    """params - rate·updates."""
    return jax.tree.map(lambda p, u: p - rate * u, params, updates)
