"""Optimisers, their parameter groups and schedules, with the reference implementations' semantics.

`optimizer` makes an optax transformation out of a stage's settings; what it returns is still to be
multiplied by minus the learning rate (`descend`), which is an array of the state, so that trials at
different rates share one compiled step.

    sgd    g + wd·w, then momentum (torch.optim.SGD)
    larc   trust·|w| / (|g| + wd·|w| + eps) · (g + wd·w), then momentum (apex's LARC without
           clipping: official SwAV); where |w| or |g| is zero, g without decay
    lars   trust·|w| / |g + wd·w| · (g + wd·w), then momentum (LARS of You et al. 2017 as official
           Barlow Twins computes it); where a norm is zero, g + wd·w
    adamw  Adam, then wd·w is added (Loshchilov and Hutter 2019, algorithm 2; optax)

The rate stays outside the momentum in all of them.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax

from cxr_jax.store import trees
from cxr_jax.store.settings import setting
from cxr_jax.train.groups import Group, assign, freeze, map_groups
from data_pipelines.errors import UserError

OPTIMIZERS = ('sgd', 'lars', 'larc', 'adamw')
SCHEDULES = ('cosine', 'step', 'constant')
LARC_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The section `optimizer` of a stage's settings."""

    name: str = setting('sgd', one_of=OPTIMIZERS)
    # Peak learning rate, for the stage's batch size.
    lr: float = setting(0.1, at_least=0)
    momentum: float = setting(0.9, at_least=0, below=1)
    # Nesterov's momentum.
    nesterov: bool = setting(False, neutral=False)
    # Of every parameter of the encoder, and of the other parts.
    weight_decay: float = setting(1e-4, at_least=0)
    head_weight_decay: float = setting(1e-4, at_least=0)
    # lars, larc: ratio of update to weights.
    trust: float = setting(0.001, above=0)
    schedule: str = setting('cosine', one_of=SCHEDULES)
    # Change the rate only between epochs.
    by_epoch: bool = False
    # cosine: last rate as a share of lr.
    final_factor: float = setting(0.0, at_least=0)
    # step: where the rate drops, as shares of the stage, and its factor there.
    milestones: tuple[float, ...] = setting((0.6, 0.8), at_least=0, at_most=1)
    step_factor: float = setting(0.1, at_least=0)
    # Linear warm-up, and the share of the rate that it starts from.
    warmup_epochs: float = setting(0.0, at_least=0, neutral=0.0)
    warmup_ratio: float = setting(0.0, at_least=0, at_most=1)
    # adamw: decay of the mean of the gradients and of their squares; added to the root of these.
    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.999, at_least=0, below=1)
    eps: float = setting(1e-8, above=0)
    # Greatest norm of the whole gradient; 0 = not limited.
    clip: float = setting(0.0, at_least=0, neutral=0.0)
    # Biases and normalisation's scales and shifts: weight decay, trust ratio (lars, larc), rate as
    # a share of lr.
    decay_1d: bool = setting(True, neutral=True)
    trust_1d: bool = setting(True, neutral=True)
    rate_1d: float = setting(1.0, at_least=0, neutral=1.0)

    def inactive(self) -> set[str]:
        """Fields without any effect, given the others."""
        idle = set()
        if self.name not in ('lars', 'larc'):
            idle |= {'trust', 'trust_1d'}
        idle |= {'momentum', 'nesterov'} if self.name == 'adamw' else {'b1', 'b2', 'eps'}
        if not self.momentum:
            idle |= {'nesterov'}
        if not self.weight_decay and not self.head_weight_decay:
            idle |= {'decay_1d'}
        if self.schedule != 'cosine':
            idle |= {'final_factor'}
        if self.schedule != 'step':
            idle |= {'milestones', 'step_factor'}
        if self.schedule == 'constant':
            idle |= {'by_epoch'}
        if not self.warmup_epochs:
            idle |= {'warmup_ratio'}
        return idle


def groups_of(
    settings: OptimizerSettings,
    frozen: dict[str, int | None],
    rules: dict[str, dict] | None = None,
) -> tuple[Group, ...]:
    """The groups in their order: the first one that matches a parameter is its own.

    `frozen`: {part, or what stands below a name as 'encoder/layer1_0': first step, None = never};
    `rules` as a task has them.
    """
    rules = rules or {}
    ruled = [(part, 0) for part in rules if part not in frozen]
    scopes = [*frozen.items(), *ruled, ('encoder', 0), ('', 0)]
    found = []
    for scope, first in scopes:
        of_encoder = scope.partition('/')[0] == 'encoder'
        decay = settings.weight_decay if of_encoder else settings.head_weight_decay
        # A name and all that stands below it.
        common = {
            'pattern': f'{re.escape(scope)}(/.*)?' if scope else '.*',
            'first_step': first or 0,
            'frozen': first is None,
            'momentum': rules.get(scope.partition('/')[0], {}).get('momentum', True),
        }
        decay_1d = decay if settings.decay_1d else 0.0
        found.append(Group(
            one_dimensional=True, decay=decay_1d, trust=settings.trust_1d, rate=settings.rate_1d,
            **common,
        ))  # fmt: skip
        found.append(Group(one_dimensional=False, decay=decay, **common))
    return tuple(found)


def optimizer(
    settings: OptimizerSettings,
    frozen: dict[str, int | None] | None = None,
    rules: dict[str, dict] | None = None,
):
    """optax transformation of a stage's settings; `frozen` and `rules` as in groups_of.

    Clipping comes first, and counts the gradients of what moves. UserError for an unknown name.
    """
    _known('name', settings.name, OPTIMIZERS)
    groups, chain = groups_of(settings, frozen or {}, rules), []
    stops = any(group.stops for group in groups)
    if settings.clip:
        chain += [freeze(groups)] if stops else []
        chain += [optax.clip_by_global_norm(settings.clip)]
    if settings.name == 'adamw':
        chain += [_adam(settings, groups), _each(groups, _decayed)]
    else:
        change = {'sgd': _decayed, 'lars': _lars(settings.trust), 'larc': _larc(settings.trust)}
        chain += [_each(groups, change[settings.name])]
    # Behind the decay and before the momentum, whose buffer starts at zero: so the whole update
    # stops, as with a gradient of None in PyTorch; a zero gradient alone would still decay.
    chain += [freeze(groups)] if stops else []
    if settings.name != 'adamw':
        chain += [_momentum(settings, groups)]
    if any(group.rate != 1 for group in groups):
        chain += [_each(groups, lambda update, _, group: group.rate * update)]
    return optax.chain(*chain)


def _momentum(settings: OptimizerSettings, groups):
    trace = optax.trace(settings.momentum, settings.nesterov)
    if all(group.momentum for group in groups):
        return trace

    def update(updates, state, params):
        traced, state = trace.update(updates, state)
        own = assign(params, groups)

        def choose(path, update, moving):
            return moving if own[trees.name_of(path)].momentum else update

        return jax.tree_util.tree_map_with_path(choose, updates, traced), state

    return optax.GradientTransformation(trace.init, update)


def descend(params, updates, rate):
    """params - rate·updates."""
    return jax.tree.map(lambda p, u: p - rate * u, params, updates)


def _each(groups, change):
    return optax.stateless(lambda updates, params: map_groups(change, updates, params, groups))


def _decayed(grad, param, group):
    return grad + group.decay * param


def _larc(trust: float):
    def scale(grad, param, group):
        if not group.trust:
            return _decayed(grad, param, group)
        grad_norm, param_norm = jnp.linalg.norm(grad), jnp.linalg.norm(param)
        ratio = trust * param_norm / (grad_norm + group.decay * param_norm + LARC_EPSILON)
        scaled = ratio * (grad + group.decay * param)
        return jnp.where((param_norm > 0) & (grad_norm > 0), scaled, grad)

    return scale


def _lars(trust: float):
    def scale(grad, param, group):
        update = _decayed(grad, param, group)
        if not group.trust:
            return update
        update_norm, param_norm = jnp.linalg.norm(update), jnp.linalg.norm(param)
        usable = (param_norm > 0) & (update_norm > 0)
        ratio = trust * param_norm / jnp.where(usable, update_norm, 1.0)
        return jnp.where(usable, ratio, 1.0) * update

    return scale


def _adam(settings: OptimizerSettings, groups):
    """Adam, whose count and moments begin with each group's first step."""
    plain = optax.scale_by_adam(settings.b1, settings.b2, settings.eps)
    if not any(group.stops for group in groups):
        return plain

    def beginning(first: int):
        if not first:
            return plain
        return optax.conditionally_transform(plain, lambda step: step >= first)

    def labels(params):
        own = assign(params, groups)

        def label(path, _):
            group = own[trees.name_of(path)]
            return 'frozen' if group.frozen else f'from {group.first_step}'

        return jax.tree_util.tree_map_with_path(label, params)

    firsts = {group.first_step for group in groups if not group.frozen}
    parts = {f'from {first}': beginning(first) for first in firsts}
    return optax.partition(parts | {'frozen': optax.set_to_zero()}, labels)


def rate_factor(settings: OptimizerSettings, total_steps: int, steps_per_epoch: int):
    """Schedule step -> factor of the peak learning rate.

    `cosine`: from 1 to final_factor between the end of the warm-up and total_steps; `step`: times
    step_factor at each milestone (share of the stage); `constant`. With `by_epoch` the factor
    changes only at the start of an epoch (mmcv's default). Warm-up: (step + 1) / warm-up steps,
    or, with a `warmup_ratio` r > 0, mmcv's r + (1 - r)·step / warm-up steps.
    """
    _known('schedule', settings.schedule, SCHEDULES)
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    drops = [round(milestone * total_steps) for milestone in settings.milestones]

    def schedule(step):
        step = jnp.asarray(step)
        position = step // steps_per_epoch * steps_per_epoch if settings.by_epoch else step
        if settings.schedule == 'cosine':
            progress = jnp.maximum(position - warmup, 0) / max(total_steps - warmup, 1)
            floor = settings.final_factor
            factor = floor + 0.5 * (1 - floor) * (1 + jnp.cos(jnp.pi * progress))
        elif settings.schedule == 'step':
            passed = sum(position >= drop for drop in drops)
            factor = settings.step_factor ** jnp.asarray(passed, float)
        else:
            factor = jnp.ones(())
        first = settings.warmup_ratio
        # From nothing, the first step would be lost: it counts as one done.
        rising = first + (1 - first) * (step + (first == 0)) / max(warmup, 1)
        return jnp.where(step < warmup, rising * factor, factor)

    return schedule


def _known(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f'optimizer.{field}={value} is not known; use one of {", ".join(known)}.')
