"""The only training loop: one stage, or several that differ in their rate alone, up to a step."""

import contextlib
import itertools
import math
from collections.abc import Callable

import jax
import numpy as np

from cxr_jax.runtime import hosts
from cxr_jax.runtime.interrupt import Interrupted, InterruptFlag
from cxr_jax.store import trees
from cxr_jax.store.checkpoint import Checkpoints
from cxr_jax.train import feed
from cxr_jax.train import state as states
from cxr_jax.train.log import StageLog
from cxr_jax.train.monitor import Ending
from cxr_jax.train.program import Training, between, placed, whole
from cxr_jax.train.stage import Stage, stage_seed
from data_pipelines.errors import UserError
from data_pipelines.prepared.sampler import Sampler

LOG_STEPS = 10  # steps between two fetches of metrics from the devices


class NotFinite(UserError):
    """The loss or the state became NaN or infinite."""


def train(
    training: Training, until: int, started: Callable[[int], None] = lambda step: None
) -> tuple[object, list[StageLog]]:
    """Trains up to step `until`, or to where a monitor has had enough, which is saved; returns
    (state, closed logs of the stages).

    Goes on from the newest intact checkpoint. `started` is told the first step. Raises Interrupted
    after a save on SIGTERM; NotFinite with the step, unless several stages train together: then
    what diverged is left where it is. Of several processes the first has the logs.
    """
    home = training.scratch or training.directories[0]
    with contextlib.closing(hosts.first_only(Checkpoints, home)) as checkpoints:
        state, begun = hosts.on_first(lambda: _newest(training, checkpoints))
        state = placed(training, state)
        if not begun:
            state = between(training, state, 0)
        first = int(state.step)
        hosts.on_first(started, first)
        with contextlib.ExitStack() as open_logs:
            logs = []
            for stage, directory in zip(training.stages, training.directories, strict=True):
                show = stage is training.first
                log = hosts.first_only(
                    StageLog, directory, stage.name, first, until, stage.facts.batch_size, show
                )
                logs.append(open_logs.enter_context(contextlib.closing(log)))
            state = _Loop(training, checkpoints, logs).run(state, until)
    if training.together:
        _save_alone(training, state)
    return state, logs


def _newest(training: Training, checkpoints: Checkpoints) -> tuple[object, bool]:
    """(host state to go on from, whether it is a checkpoint's)."""
    like, program = training.program.like, training.program
    if training.together:
        count = len(training.stages)
        stacked = jax.eval_shape(lambda state: states.stack([state] * count), like)
        state = checkpoints.restore(stacked)
        if state is not None:
            return jax.device_get(state), True
    own, begun = [], False
    for stage, directory in zip(training.stages, training.directories, strict=True):
        if training.together:
            with contextlib.closing(Checkpoints(directory)) as alone:
                state = alone.restore(like)
        else:
            state = checkpoints.restore(like)
        begun = begun or state is not None
        if state is None:
            state = program.create(program.parent, stage.optimizer.lr)
        own.append(jax.device_get(state))
    if len({int(state.step) for state in own}) > 1:
        raise ValueError('trials at different steps cannot be trained together')
    return (states.stack(own) if training.together else own[0]), begun


class _Loop:
    """The steps of a training from its first to its last."""

    def __init__(self, training: Training, checkpoints: Checkpoints, logs: list[StageLog]):
        self._training, self._checkpoints, self._logs = training, checkpoints, logs
        self._stage, self._program = training.first, training.program
        self._step = self._program.step_together if training.together else self._program.step
        self._pending: list[tuple[int, dict]] = []
        self._last: dict = {}

    def run(self, state, until: int):
        """Runs the remaining steps; saves every `checkpoint_epochs` and at the end."""
        first, per_epoch = int(state.step), self._stage.facts.steps_per_epoch
        every = max(round(self._stage.settings.checkpoint_epochs * per_epoch), 1)
        batches = batches_on_devices(self._stage, self._program.mesh, first)
        ending = self._ask('begin', first, state)
        until = first if ending else until
        with InterruptFlag() as interrupt:
            for i, batch in zip(range(first + 1, until + 1), batches, strict=False):
                state, metrics, seen = self._step(state, batch)
                self._pending.append((i, metrics))
                # Read once: a signal during the lines below is for the step after.
                stopping = hosts.agree(interrupt.raised, now=i % LOG_STEPS == 0)
                epoch_ends = i % per_epoch == 0
                looking = [each for each in self._training.monitors if each.looks_at(i)]
                saving = i % every == 0 or i == until or stopping
                if i % LOG_STEPS == 0 or saving or epoch_ends or looking:
                    # A state is saved only after the losses up to it are known to be finite.
                    self._fetch()
                for monitor in looking:
                    ending = monitor.look(i, seen, self._logs[0]) or ending
                if epoch_ends:
                    if i < self._stage.total_steps:
                        state = between(self._training, state, i // per_epoch)
                    # A collapse that was seen is told, whatever else would end the stage.
                    told = self._ask('epoch_ended', i // per_epoch, state)
                    ending = ending or told
                if saving or ending:
                    self._save(state, wait=i == until or stopping or bool(ending))
                if stopping or ending:
                    break
            if not until:  # all was done before epoch 0
                self._save(state, wait=True)
            if hosts.agree(interrupt.raised):
                place = f'step {int(state.step)} of {self._stage.total_steps}'
                raise Interrupted(f'{self._training.title} stopped and saved at {place}')
        if isinstance(ending, Exception):
            raise ending
        return state

    def _ask(self, what: str, *arguments) -> Ending:
        """The first answer of the monitors that ends the training."""
        answers = [getattr(each, what)(*arguments) for each in self._training.monitors]
        return next(filter(None, answers), None)

    def _fetch(self) -> None:
        """Moves the pending metrics from the devices into the logs."""
        rows = [[] for _ in self._logs]
        for step, metrics in self._pending:
            found = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
            for number, own in enumerate(rows):
                own.append({'step': step} | {k: float(v[number]) for k, v in found.items()})
        self._pending.clear()
        for own, log in zip(rows, self._logs, strict=True):
            finite = list(itertools.takewhile(_is_finite, own))
            if finite:
                log.write(finite, finite[-1]['step'] / self._stage.facts.steps_per_epoch)
            self._last = own[min(len(finite), len(own) - 1)] if own else self._last
            if len(finite) < len(own) and not self._training.together:
                raise NotFinite(self._advice())

    def _save(self, state, wait: bool) -> None:
        state = whole(self._training, state)
        # The losses are those before the last update, which may itself have left their range.
        if not self._training.together and not trees.is_finite(state):
            raise NotFinite(self._advice())
        for log in self._logs:
            log.sync()
        self._checkpoints.save(state, wait)

    def _advice(self) -> str:
        name, row = self._stage.name, self._last
        if not row:
            return f'The numbers of stage {name} are not finite before its first step.'
        return (
            f'The numbers of stage {name} are no longer finite at step {row["step"]}: loss '
            f'{row["loss"]}, gradient norm {row["grad_norm"]}, learning rate '
            f'{row["learning_rate"]:.3g}. Try a lower rate '
            f'(--config.stage.{name}.optimizer.lr={self._stage.optimizer.lr / 3:.2g}) or a longer '
            f'warm-up (--config.stage.{name}.optimizer.warmup_epochs=1). What was saved before '
            f'that is finite and kept in {self._training.directories[0] / "checkpoints"}.'
        )


def _is_finite(row: dict) -> bool:
    return math.isfinite(row['loss']) and math.isfinite(row['grad_norm'])


def _save_alone(training: Training, state) -> None:
    """Each trial's checkpoint as if it had been trained alone; a diverged one gets none."""
    state = whole(training, state)
    for number, directory in enumerate(training.directories):
        own = states.unstack(state, number)
        if trees.is_finite(own):
            with contextlib.closing(Checkpoints(directory)) as checkpoints:
                checkpoints.save(own, wait=True)


def batches_on_devices(stage: Stage, mesh, start: int):
    """The stage's batches from number `start` on."""
    data, balance = stage.train, stage.settings.data.balance
    seed = stage_seed(stage.seed, stage.name)
    sampler = Sampler(data.corpus, stage.facts.batch_size, seed, balance, data.strata)
    fields = feed.fields_of(stage.encoder, stage.task)
    return feed.batches(data, sampler, start, mesh, fields, stage.on_device)
