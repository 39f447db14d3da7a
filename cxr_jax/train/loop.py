"""The only training loop: a stage from its newest checkpoint, or from its parent, to a step."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax

from cxr_jax.runtime import hosts, parallel
from cxr_jax.runtime.interrupt import Interrupted, InterruptFlag
from cxr_jax.store import trees
from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.train import feed
from cxr_jax.train import state as states
from cxr_jax.train.log import StageLog
from cxr_jax.train.optim import optimizer, rate_factor
from cxr_jax.train.stage import Stage, stage_seed
from cxr_jax.train.step import make_train_step
from cxr_jax.views.region import needs_masks
from data_pipelines.errors import UserError

LOG_STEPS = 10  # steps between two fetches of metrics from the devices


class NotFinite(UserError):
    """The loss or the state became NaN or infinite."""


def build_stage(stage: Stage, backbone):
    """(create: parent, lr -> TrainState, transform, rate factor) of a stage; nothing runs yet."""
    steps = stage.facts.steps_per_epoch
    frozen = stage.task.frozen(stage.facts)
    transform = optimizer(stage.config.optimizer, frozen)
    key = jax.random.key(stage_seed(stage.seed, stage.name))

    def create(parent, lr):
        params, batch_stats = parent['params'], parent['batch_stats']
        return states.create(stage.task, backbone, transform, params, batch_stats, key, lr)

    return create, transform, rate_factor(stage.config.optimizer, stage.total_steps, steps)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a stage compiles to; stages that differ in their learning rate alone share one."""

    backbone: object
    parent: dict  # {'params', 'batch_stats'} of the backbone
    mesh: object
    create: Callable
    step: Callable
    step_together: Callable  # the same for stacked states
    like: object  # abstract TrainState, as it is restored


def build_program(stage: Stage, backbone, parent: dict, mesh) -> Program:
    """The stage's program; the step itself is compiled by its first call."""
    create, transform, factor = build_stage(stage, backbone)
    like = jax.eval_shape(create, parent, 0.0)
    gray = stage.data.statistics['full']['mean']
    parts = stage.task, backbone, transform, factor, mesh, stage.region, gray
    step, together = make_train_step(*parts), make_train_step(*parts, True)
    return Program(backbone, parent, mesh, jax.jit(create), step, together, like)


class Files(NamedTuple):
    """What a training writes; of several processes the first does."""

    folder: pathlib.Path  # of the checkpoints
    checkpoints: Checkpoints
    log: StageLog


def train(
    stage: Stage,
    program: Program,
    directory: pathlib.Path,
    until: int,
    started: Callable[[int], None] = lambda step: None,
    watch: Callable[[object], None] | None = None,
):
    """Trains up to step `until`, which is saved; returns (state, closed StageLog).

    Goes on from the newest intact checkpoint in `directory`. `started` is told the first step;
    `watch` gets the state at the end of every epoch, before that is saved. Raises Interrupted after
    a save on SIGTERM, NotFinite with the step. Of several processes the first has the log.
    """
    with contextlib.closing(hosts.first_only(Checkpoints, directory)) as checkpoints:

        def newest():
            state = checkpoints.restore(program.like)
            if state is None:
                state = program.create(program.parent, stage.config.optimizer.lr)
            return jax.device_get(state)

        state = parallel.replicate(program.mesh, hosts.on_first(newest))
        first = int(state.step)
        hosts.on_first(started, first)
        batch_size = stage.facts.batch_size
        log = hosts.first_only(StageLog, directory, stage.name, first, until, batch_size)
        with contextlib.closing(log):
            files = Files(directory / 'checkpoints', checkpoints, log)
            state = _run_steps(stage, program, state, until, files, watch)
    return state, log


def _run_steps(stage, program, state, until, files: Files, watch):
    """Runs the remaining steps; saves every `config.checkpoint_epochs` and at the end."""
    first, per_epoch = int(state.step), stage.facts.steps_per_epoch
    every = max(round(stage.config.checkpoint_epochs * per_epoch), 1)
    pending: list[tuple[int, dict]] = []
    last = {}

    def flush():
        nonlocal last
        rows = [
            {'step': i} | {k: float(v) for k, v in jax.device_get(metrics).items()}
            for i, metrics in pending
        ]
        pending.clear()
        for last in rows:
            if not math.isfinite(last['loss']) or not math.isfinite(last['grad_norm']):
                raise NotFinite(_advice(stage, last, files.folder))
        if rows:
            files.log.write(rows, last['step'] / per_epoch)

    def save(wait):
        # The losses are those before the last update, which may itself have left their range.
        if not trees.is_finite(state):
            raise NotFinite(_advice(stage, last, files.folder))
        files.log.sync()
        files.checkpoints.save(state, wait)

    batches = batches_on_devices(stage, program.mesh, first)
    with InterruptFlag() as interrupt:
        for i, batch in zip(range(first + 1, until + 1), batches, strict=False):
            state, metrics = program.step(state, batch)
            pending.append((i, metrics))
            # Read once: a signal during the lines below is for the step after.
            stopping = hosts.agree(interrupt.raised, now=i % LOG_STEPS == 0)
            saving = i % every == 0 or i == until or stopping
            watching = watch and i % per_epoch == 0
            if i % LOG_STEPS == 0 or saving or watching:
                # A state is saved only after the losses up to it are known to be finite.
                flush()
            if watching:
                watch(state)
            if saving:
                save(wait=i == until or stopping)
            if stopping:
                break
        if hosts.agree(interrupt.raised):
            step_now, total = int(state.step), stage.total_steps
            raise Interrupted(f'stage {stage.name} stopped and saved at step {step_now} of {total}')
    return state


def batches_on_devices(stage: Stage, mesh, start: int):
    """The stage's batches from number `start` on."""
    masks = needs_masks(stage.region) or stage.task.needs_masks
    seed = stage_seed(stage.seed, stage.name)
    return feed.batches(
        stage.data, stage.facts.batch_size, seed, start, mesh, masks, stage.on_device
    )


def _advice(stage: Stage, row: dict, checkpoints: pathlib.Path) -> str:
    rate = row['learning_rate']
    return (
        f'The numbers of stage {stage.name} are no longer finite at step {row["step"]}: loss '
        f'{row["loss"]}, gradient norm {row["grad_norm"]}, learning rate {rate:.3g}. Try a lower '
        f'rate (--config.stage.{stage.name}.optimizer.lr={stage.config.optimizer.lr / 3:.2g}) or a '
        f'longer warm-up (--config.stage.{stage.name}.optimizer.warmup_epochs=1). What was saved '
        f'before that is finite and kept in {checkpoints}.'
    )
