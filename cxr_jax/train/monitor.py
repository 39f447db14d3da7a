"""Monitors look at a training and never touch it; no key knows of them."""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from cxr_jax.evaluation import alarms
from cxr_jax.evaluation.health import health
from cxr_jax.runtime import hosts, parallel
from cxr_jax.store.files import write_text
from cxr_jax.train.log import read_metrics
from cxr_jax.train.stage import Stage
from data_pipelines.errors import UserError

HEALTH_FILE = 'health.jsonl'
ROWS = 512  # most rows of a batch that are looked at
ENOUGH = 'enough'  # see Monitor
Ending = UserError | str | None


class Monitor:
    """One that does nothing; every process calls the same methods at the same steps.

    What a method returns ends the training as soon as the state is saved: ENOUGH as if this had
    been the last step, a UserError by raising it. None: it goes on.
    """

    def begin(self, step: int, state) -> Ending:
        """Before the first step of this session; `step` is done, 0 at the start of a stage."""

    def looks_at(self, step: int) -> bool:
        """Whether `look` is to be called after this step."""
        return False

    def look(self, step: int, seen: dict, log) -> Ending:
        """`seen` as the step returns it; `log`: the stage's, up to this step (first process)."""

    def epoch_ended(self, epoch: int, state) -> Ending:
        """At the end of each epoch, before the state is saved."""


class EachEpoch(Monitor):
    """Calls `watch(epoch, state)` at the end of each epoch."""

    def __init__(self, watch: Callable[[int, object], None]):
        self._watch = watch

    def epoch_ended(self, epoch, state):
        self._watch(epoch, state)


class Record:
    """Rows of a JSON-lines file, each with its 'step'; what is trained again is replaced.

    For the first process alone.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.rows = read_metrics(path)

    def rewind(self, step: int) -> None:
        """Drops what was written after this step, by a session that was killed."""
        self.rows = [row for row in self.rows if row['step'] <= step]

    def add(self, row: dict) -> None:
        self.rewind(row['step'] - 1)
        self.rows.append(row)
        write_text(self.path, ''.join(json.dumps(row) + '\n' for row in self.rows))


def say(text: str) -> None:
    """A line on the console, above a progress bar if there is one."""
    tqdm.tqdm.write(text)


class Health(Monitor):
    """Looks at the embeddings and assignments of training batches, evenly over the stage.

    `looks` of them, but one an epoch at least, and one at the first step. A row in health.jsonl:
    epoch, step, mean loss since the look before, what cxr_jax.evaluation.health tells, and the
    alarms that are on. Nothing is computed or compiled for it. `on_collapse`: 'warn' or 'stop'.
    """

    def __init__(self, stage: Stage, directory: pathlib.Path, looks: int, on_collapse: str):
        self._stage, self._stops = stage, on_collapse == 'stop'
        self._looks = max(looks, stage.settings.epochs)
        self._record = hosts.on_first(Record, directory / HEALTH_FILE)

    def begin(self, step, state):
        hosts.on_first(lambda: self._record.rewind(step))

    def looks_at(self, step):
        # Whether one more look is due than at the step before.
        looks, total = self._looks, self._stage.total_steps
        return step == 1 or step * looks // total > (step - 1) * looks // total

    def look(self, step, seen, log):
        parts = hosts.gather(jax.tree.map(lambda rows: rows[:ROWS], parallel.own_rows_of(seen)))
        whole = jax.tree.map(lambda *rows: np.concatenate(rows)[:ROWS], *parts)
        return hosts.on_first(self._judge, step, whole, log)

    def _judge(self, step: int, seen: dict, log) -> Ending:
        """In the first process: the row, what it says on the console, and whether to stop."""
        stage, rows = self._stage, self._record.rows
        if not all(np.isfinite(view).all() for view in seen['embeddings'].values()):
            return None  # the loss or the state will be found to be so
        before = rows[-1] if rows else {'step': 0}
        since = [row for row in log.rows if before['step'] < row['step'] <= step]
        # The task's own, which is what chance is told of; beside distillation it is not the whole.
        losses = [row.get('task_loss', row['loss']) for row in since]
        row = {'epoch': round(step / stage.facts.steps_per_epoch, 3), 'step': step}
        row |= {'loss': float(np.mean(losses))} | health(seen['embeddings'], seen['assignments'])
        judged = [*rows, row], stage.total_steps, stage.task.chance_loss()
        row['alarms'] = alarms.judge(*judged)
        self._record.add(row)
        new = [name for name in row['alarms'] if name not in before.get('alarms', [])]
        found = alarms.values(*judged)
        for name in new:
            told = f'{alarms.MEANINGS[name]} ({found[name].told})'
            say(f'! {stage.name}, step {step} of {stage.total_steps}: {told}.')
        for name in before.get('alarms', []):
            if name not in row['alarms']:
                say(f'  {stage.name}, step {step}: no longer so: {alarms.MEANINGS[name]}.')
        collapsed = [name for name in row['alarms'] if name in alarms.COLLAPSES]
        if self._stops and collapsed:
            return self._advice(step, collapsed[0], found[collapsed[0]])
        return None

    def _advice(self, step: int, name: str, found: alarms.Value) -> UserError:
        stage = self._stage
        where, lr = f'--config.stage.{stage.name}', stage.optimizer.lr
        return UserError(
            f'Stage {stage.name} has collapsed at step {step} of {stage.total_steps}: '
            f'{alarms.MEANINGS[name]} ({found.told}). The state is saved, and every look is in '
            f'{self._record.path}. '
            f'Try a lower rate ({where}.optimizer.lr={lr / 3:.2g}), a longer warm-up '
            f'({where}.optimizer.warmup_epochs=1) or larger batches; to go on all the same, start '
            'the command again with --config.monitor.on_collapse=warn.'
        )
