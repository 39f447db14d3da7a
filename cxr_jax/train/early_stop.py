"""A stage that ends when it gets no better, and leaves what it was after its best epoch.

What is judged is a function of the state alone, so a stage that was killed comes to the same end.
`early_stop.jsonl` of the stage's folder has the value of each epoch, `best/<step>/` what the stage
would leave: written before the value is, and kept until a checkpoint is as new.
"""

import math
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cxr_jax.evaluation import measures
from cxr_jax.evaluation.health import distance_from_normal, rankme
from cxr_jax.runtime import hosts
from cxr_jax.store.bundle import fit, read_parts, write_bundle
from cxr_jax.store.checkpoint import saved_steps
from cxr_jax.train.monitor import ENOUGH, Ending, Monitor, Record
from cxr_jax.train.probing import probe, training_features
from cxr_jax.train.stage import EarlyStopSettings, Stage
from cxr_jax.train.validation import make_observed

EARLY_STOP_FILE = 'early_stop.jsonl'
BEST = 'best'


class Criterion(NamedTuple):
    """A number of a state, and whether more of it is better."""

    value_of: Callable[[object], float]
    higher_is_better: bool


def criterion(by: str, stage: Stage, mesh) -> Criterion:
    """One of stage.CRITERIA."""
    if by == 'probe':
        higher = measures.headline(stage.probed.exclusive).higher_is_better
        return Criterion(lambda state: probe(stage, mesh, state)['ridge'], higher)
    if by == 'loss':
        observed = make_observed(stage, mesh)
        return Criterion(lambda state: observed(state)['loss'], False)
    measure, higher = {'rank': (rankme, True), 'sigreg': (distance_from_normal, False)}[by]

    def of_features(state) -> float:
        features = training_features(stage, mesh, state)
        return measure(features) if np.isfinite(features).all() else math.nan

    return Criterion(of_features, higher)


def best_row(rows: list[dict], higher_is_better: bool) -> dict | None:
    """The first of the best rows; None without a finite value."""
    known = [row for row in rows if row['value'] is not None]
    sign = -1 if higher_is_better else 1
    return min(known, key=lambda row: sign * row['value'], default=None)


def is_over(rows: list[dict], settings: EarlyStopSettings, higher_is_better: bool) -> bool:
    """Whether a stage with these epochs behind it ends."""
    if not rows:
        return False
    best, last = best_row(rows, higher_is_better), rows[-1]['epoch']
    first = rows[0]['epoch'] - 1  # where nothing had a value
    return last >= settings.least and last - (best['epoch'] if best else first) >= settings.patience


class EarlyStop(Monitor):
    """Judges the state at the end of each epoch, and keeps what the best one would leave."""

    def __init__(self, stage: Stage, directory: pathlib.Path, mesh):
        self._stage, self._folder = stage, directory
        self._settings = stage.settings.early_stop
        self._criterion = criterion(self._settings.by, stage, mesh)
        self._record = hosts.on_first(Record, directory / EARLY_STOP_FILE)

    def begin(self, step, state):
        return hosts.on_first(self._begin, step)

    def epoch_ended(self, epoch, state):
        value, own = self._criterion.value_of(state), state.parts
        leaves = {part: own[part] for part in self._stage.task.leaves}
        return hosts.on_first(self._judge, epoch, int(state.step), value, leaves)

    def chosen(self, parts: dict) -> tuple[dict, dict]:
        """(what the stage leaves, what its bundle tells of it); `parts` are those of its end.

        For the first process. UserError if what was kept is damaged.
        """
        rows, settings = self._record.rows, self._settings
        if not rows:  # a search has trained all of it
            return parts, {}
        best = self._best(rows) or rows[-1]
        told = {
            'by': settings.by,
            'epoch': best['epoch'],
            'step': best['step'],
            'value': best['value'],
            'values': [row['value'] for row in rows],
        }
        if best['value'] is not None:
            folder = self._folder / BEST / str(best['step'])
            found = read_parts(folder, tuple(parts))
            parts = {name: fit(found[name], part, str(folder)) for name, part in parts.items()}
        last = rows[-1]
        return parts, {'epochs': last['epoch'], 'steps': last['step'], 'early_stop': told}

    def _begin(self, step: int) -> Ending:
        self._record.rewind(step)
        return ENOUGH if self._over() else None

    def _judge(self, epoch: int, step: int, value: float, parts: dict) -> Ending:
        row = {'epoch': epoch, 'step': step, 'value': value if math.isfinite(value) else None}
        rows = [*self._record.rows, row]
        if self._best(rows) is row:
            folder = self._folder / BEST / str(step)
            folder.mkdir(parents=True, exist_ok=True)
            write_bundle(folder, jax.device_get(parts), {'epoch': epoch, 'step': step})
        self._record.add(row)
        self._prune()
        return ENOUGH if self._over() else None

    def _prune(self) -> None:
        """Removes what is worse than the best up to the oldest checkpoint: a session that goes on
        from there never asks for it."""
        oldest = min(saved_steps(self._folder / 'checkpoints'), default=0)
        best = self._best([row for row in self._record.rows if row['step'] <= oldest])
        for step in saved_steps(self._folder / BEST):
            if best and step < best['step']:
                shutil.rmtree(self._folder / BEST / str(step))

    def _best(self, rows: list[dict]) -> dict | None:
        return best_row(rows, self._criterion.higher_is_better)

    def _over(self) -> bool:
        return is_over(self._record.rows, self._settings, self._criterion.higher_is_better)
