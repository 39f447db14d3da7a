"""Trials of a search trained together on one accelerator: one step for all learning rates.

The numbers are those of training them one by one, but for rounding. Which is faster depends on
how much of the accelerator a single trial's batch fills; on CPU one by one is.
"""

import contextlib
import itertools
import json
import pathlib
import shutil

import jax
import numpy as np

from cxr_jax.runtime import parallel
from cxr_jax.runtime.interrupt import Interrupted, InterruptFlag
from cxr_jax.store import trees
from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.store.files import write_json
from cxr_jax.train import state as states
from cxr_jax.train.log import StageLog
from cxr_jax.train.loop import LOG_STEPS, Program, batches_on_devices
from cxr_jax.train.stage import Stage

OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'


def can_train_together(stages: list[Stage], mesh) -> bool:
    """Whether there is one accelerator, and several stages that differ in their rate alone."""
    sizes = {(each.facts.batch_size, each.total_steps) for each in stages}
    return jax.default_backend() != 'cpu' and mesh.size == 1 and len(stages) > 1 == len(sizes)


def train_together(
    stages: list[Stage],
    program: Program,
    directories: list[pathlib.Path],
    scratch: pathlib.Path,
    until: int,
    value_of,
) -> list[dict[int, float]] | None:
    """Trains all to step `until`, each then saved in its directory; values of each epoch.

    Every state starts from its directory's newest checkpoint, all at one step, or from its parent.
    What is under way lies in `scratch`, from which an interrupted call goes on; the caller deletes
    it once the values are safe. `value_of`: state -> value on the validation split, NaN for a trial
    that diverged. None, with nothing changed, if the device has too little memory.
    """
    try:
        state, rows, values = _train(stages, program, directories, scratch, until, value_of)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        return None
    for number, (stage, directory) in enumerate(zip(stages, directories, strict=True)):
        _save_alone(stage, states.unstack(state, number), directory, rows[number], until)
    return values


def _train(stages, program: Program, directories, scratch: pathlib.Path, until: int, value_of):
    """(stacked state at `until`, log rows of each trial, values of each trial by epoch)."""
    per_epoch, progress = stages[0].facts.steps_per_epoch, scratch / 'progress.json'
    scratch.mkdir(parents=True, exist_ok=True)
    rows, values = [[] for _ in stages], [{} for _ in stages]
    with contextlib.closing(Checkpoints(scratch)) as checkpoints, InterruptFlag() as interrupt:
        state = checkpoints.restore(_stacked_like(program, len(stages)))
        if state is None:
            state = _start(stages, program, directories)
        else:
            kept = json.loads(progress.read_text())
            rows = [[r for r in row if r['step'] <= int(state.step)] for row in kept['rows']]
            values = [{int(k): v for k, v in each.items()} for each in kept['values']]
        state = parallel.replicate(program.mesh, state)
        first, pending = int(state.step), []
        batches = itertools.islice(
            batches_on_devices(stages[0], program.mesh, first), until - first
        )
        for i, batch in enumerate(batches, first + 1):
            state, metrics = program.step_together(state, batch)
            pending.append((i, metrics))
            stopping, epoch_ends = interrupt.raised, i % per_epoch == 0 or i == until
            if i % LOG_STEPS == 0 or epoch_ends or stopping:
                _fetch(pending, rows)
            if epoch_ends:
                for number, own in enumerate(values):
                    own[i // per_epoch] = value_of(states.unstack(state, number))
            if epoch_ends or stopping:
                write_json(progress, {'rows': rows, 'values': values})
                checkpoints.save(state, wait=stopping or i == until)
            if stopping:
                raise Interrupted(f'the search of stage {stages[0].name} stopped at step {i}')
    return state, rows, values


def _start(stages, program: Program, directories):
    """Every trial's own state, stacked."""
    own = []
    for stage, directory in zip(stages, directories, strict=True):
        with contextlib.closing(Checkpoints(directory)) as checkpoints:
            state = checkpoints.restore(program.like)
        if state is None:
            state = program.create(program.parent, stage.config.optimizer.lr)
        own.append(jax.device_get(state))
    steps = {int(state.step) for state in own}
    if len(steps) > 1:
        raise ValueError(f'trials at different steps cannot be trained together: {steps}')
    return states.stack(own)


def _stacked_like(program: Program, number: int):
    """Abstract stacked state, as it is restored."""
    return jax.eval_shape(lambda state: states.stack([state] * number), program.like)


def _fetch(pending: list, rows: list[list[dict]]) -> None:
    """Moves the pending metrics [n] of each step into every trial's rows."""
    for step, metrics in pending:
        found = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
        for number, own in enumerate(rows):
            own.append({'step': step} | {k: float(v[number]) for k, v in found.items()})
    pending.clear()


def _save_alone(stage: Stage, state, directory: pathlib.Path, rows: list[dict], until: int) -> None:
    """The trial's checkpoint and log as if it had been trained alone; a diverged one has none."""
    if not trees.is_finite(state):
        return
    first = rows[0]['step'] - 1 if rows else until
    log = StageLog(directory, stage.name, first, until, stage.facts.batch_size)
    with contextlib.closing(log), contextlib.closing(Checkpoints(directory)) as checkpoints:
        log.write(rows, until / stage.facts.steps_per_epoch)
        log.sync()
        checkpoints.save(state, wait=True)
