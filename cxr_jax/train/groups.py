"""Groups of parameters: which decay, trust ratio, rate and first step each of them has.

Groups are in an order. The first one that matches a parameter is its own, with all its values;
nothing of a later one is added.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax

from cxr_jax.store import trees
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Group:
    """How the parameters move whose name `pattern` matches as a whole, as 'encoder/conv1/kernel'.

    `one_dimensional`: only parameters with at most one axis (True), only the others (False).
    """

    pattern: str = '.*'
    one_dimensional: bool | None = None
    decay: float = 0.0
    trust: bool = True
    rate: float = 1.0
    momentum: bool = True
    first_step: int = 0  # before it they stand still, as if training began there
    frozen: bool = False  # for good

    @property
    def stops(self) -> bool:
        """Whether there are steps at which its parameters stand still."""
        return self.frozen or self.first_step > 0

    def matches(self, name: str, parameter) -> bool:
        """Whether a parameter, an array or its abstract one, is of this group."""
        fits = self.one_dimensional in (None, parameter.ndim <= 1)
        return fits and re.fullmatch(self.pattern, name) is not None


def assign(params, groups: tuple[Group, ...]) -> dict[str, Group]:
    """{name: its group} of every parameter; ValueError for one that no group matches."""
    found = {}
    for path, parameter in jax.tree_util.tree_leaves_with_path(params):
        name = trees.name_of(path)
        own = next((group for group in groups if group.matches(name, parameter)), None)
        if own is None:
            raise ValueError(f'no group matches the parameter {name}')
        found[name] = own
    return found


def freeze(groups: tuple[Group, ...]):
    """Zeroes the updates of what stands still at this step."""

    def init(params):
        _check_named(params, groups)
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        def held(update, _, group):
            if group.frozen:
                return jnp.zeros_like(update)
            if group.first_step:
                return jnp.where(state.count >= group.first_step, 1.0, 0.0) * update
            return update

        updates = map_groups(held, updates, params, groups)
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _check_named(params, groups) -> None:
    """UserError for a pattern to freeze that no parameter has."""
    names = list(trees.leaf_table(params))
    for pattern in dict.fromkeys(group.pattern for group in groups if group.stops):
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(
                f'Nothing can be frozen by the name {pattern!r}: no parameter has it. There are '
                f'{", ".join(sorted({name.rpartition("/")[0] or name for name in names}))}.'
            )


def map_groups(change, updates, params, groups):
    """Tree of change(update, parameter, its group)."""
    own = assign(params, groups)
    return jax.tree_util.tree_map_with_path(
        lambda path, update, parameter: change(update, parameter, own[trees.name_of(path)]),
        updates,
        params,
    )
