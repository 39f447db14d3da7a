"""What a stage compiles to, what is trained together, and a state's way to devices and back."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cxr_jax.runtime import parallel
from cxr_jax.train import state as states
from cxr_jax.train.features import corpus_features, whole_image_statistics
from cxr_jax.train.monitor import Monitor
from cxr_jax.train.optim import optimizer, rate_factor
from cxr_jax.train.stage import Stage, stage_seed
from cxr_jax.train.step import make_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What a stage compiles to; stages with one `program_key` share it."""

    parent: dict  # {part: {'params', 'batch_stats'}}
    mesh: object
    create: Callable  # parent, lr -> TrainState
    step: Callable
    step_together: Callable  # the same for stacked states
    like: object  # abstract TrainState, as it is restored


def build_program(stage: Stage, parent: dict, mesh) -> Program:
    """The stage's program; the step itself is compiled by its first call."""
    task, encoder, facts = stage.trained_task, stage.encoder, stage.facts
    transform = optimizer(stage.optimizer, task.frozen(facts), task.rules)
    factor = rate_factor(stage.optimizer, stage.total_steps, facts.steps_per_epoch)
    key = jax.random.key(stage_seed(stage.seed, stage.name))

    def create(parts, lr):
        return states.create(task, encoder, transform, parts, key, lr)

    like = jax.eval_shape(create, parent, 0.0)
    parts = task, encoder, transform, factor, mesh
    step, together = make_train_step(*parts), make_train_step(*parts, True)
    return Program(parent, mesh, jax.jit(create), step, together, like)


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained, and where it lies.

    One stage, saved in its directory; or several stacked ones, which differ in their rate alone:
    what is under way is then saved in `scratch`, and at the end each state in its own directory.
    """

    stages: Sequence[Stage]
    program: Program
    directories: Sequence[pathlib.Path]
    scratch: pathlib.Path | None = None
    monitors: Sequence[Monitor] = ()

    @property
    def first(self) -> Stage:
        return self.stages[0]

    @property
    def together(self) -> bool:
        return self.scratch is not None

    @property
    def title(self) -> str:
        return f'{"the search of " if self.together else ""}stage {self.first.name}'


def between(training: Training, state, epoch: int):
    """What the task does on the host at the border of an epoch, if it does anything."""
    stage, mesh = training.first, training.program.mesh
    if not stage.task.pauses:
        return state
    host = jax.device_get(whole(training, state))

    def changed(own):
        how = stage.train.corpus, stage.task.smallest_input, stage.facts.batch_size
        if epoch == 0 and stage.task.fresh_statistics:
            found = whole_image_statistics(stage.encoder, mesh, own.parts['encoder'], *how)
            own = own.replace(batch_stats=own.batch_stats | {'encoder': found})

        def features_of() -> np.ndarray:
            return corpus_features(stage.encoder, mesh, own.parts['encoder'], *how)

        return stage.trained_task.between(own, epoch, features_of, *told)

    told = () if stage.train.labels is None else (stage.train.labels,)
    if not training.together:
        return placed(training, changed(host))
    each = [changed(states.unstack(host, n)) for n in range(len(training.stages))]
    return placed(training, jax.device_get(states.stack(each)))


def placed(training: Training, state):
    """A host state on the devices of the mesh."""
    spread = states.layout(training.first.task, state, training.together)
    return parallel.place(training.program.mesh, state, spread)


def whole(training: Training, state):
    """The state with all of it on every device, so that any process can read it."""
    if training.first.task.by_image:
        return parallel.replicate(training.program.mesh, state)
    return state
