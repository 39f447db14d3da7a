"""The search for a stage's learning rate (and batch size): candidates, trials, the choice.

Protocols: `thesis` trains every candidate of a grid for the search epochs on all data, and the best
one continues from its own state; `sampled` draws candidates and trains each on a fraction of the
patients with a short schedule of its own, then a full training starts with the winner; `halving`
(successive halving, Jamieson and Talwalkar 2016) cuts the candidates to a third again and again,
each time at three times the epochs, and the survivor continues from its own state. A trial is the
stage itself at the candidate's rate, stopped early: what continues is what an uninterrupted
training at that rate would have been.

On one accelerator the trials of one batch size train together, in one step for all rates: the
numbers are those of training them one by one, but for rounding. On CPU one by one is faster.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import jax

from cxr_jax.runtime import hosts
from cxr_jax.store import trees
from cxr_jax.store.checkpoint import saved_steps
from cxr_jax.store.files import write_json
from cxr_jax.train import state as states
from cxr_jax.train.log import read_metrics
from cxr_jax.train.loop import NotFinite, train
from cxr_jax.train.monitor import EachEpoch
from cxr_jax.train.program import Training
from cxr_jax.train.stage import Stage
from cxr_jax.train.validation import Programs, judged_by
from data_pipelines.errors import UserError

SEARCH_FILE = 'search.json'
VALUES_FILE = 'values.json'  # of a trial
OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'
SURVIVORS = 3  # halving: one in this many goes on


def rungs(protocol: str, candidates: int, epochs: int) -> list[int]:
    """Epochs at which the candidates are compared; after each one fewer go on.

    halving: as many cuts to a third as leave one, the last at a third of `epochs`.
    """
    if protocol != 'halving':
        return [epochs]
    cuts = max(math.ceil(math.log(candidates, SURVIVORS) - 1e-9), 1)
    found = [round(epochs / SURVIVORS ** (cuts - k)) for k in range(cuts)]
    return sorted({max(epoch, 1) for epoch in found})


@dataclasses.dataclass
class Trial:
    """One candidate: its stage, and its value at the end of each epoch (NaN once diverged)."""

    stage: Stage
    name: str
    values: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def lr(self) -> float:
        return self.stage.optimizer.lr


def search(stage: Stage, directory: pathlib.Path, programs: Programs) -> Stage:
    """The winning trial's stage, trained to the last rung; its files lie in `directory` then.

    Trials live in `directory`/trials and resume like any training; `directory`/search.json tells
    them all. With `sampled` the winner starts anew, on all data.
    """
    plan, best_first = stage.search, -1 if judged_by(stage)[1] else 1
    trials = [
        Trial(each, f'{k:02d}-lr{each.optimizer.lr:g}-batch{each.facts.batch_size}')
        for k, each in enumerate(plan.trials)
    ]
    running, history = list(trials), []
    stops = rungs(plan.settings.protocol, len(trials), plan.settings.epochs)
    for number, epochs in enumerate(stops):
        begun = stops[number - 1] if number else 0
        _advance_together(running, directory / 'trials', (begun, epochs), programs)
        for trial in running:
            _advance(trial, directory / 'trials' / trial.name, epochs, programs)
        # Stable: equal values leave the lower rate in front.
        ranked = sorted(running, key=lambda t: _rank(t.values.get(epochs), best_first))
        if not math.isfinite(ranked[0].values.get(epochs, math.nan)):
            raise UserError(
                f'Every candidate of the search of stage {stage.name} diverged '
                f'({", ".join(f"{t.lr:g}" for t in running)}); lower '
                f'--config.stage.{stage.name}.search.low and .high.'
            )
        history.append({'epochs': epochs, 'trials': [t.name for t in running]})
        keep = math.ceil(len(running) / SURVIVORS) if plan.settings.protocol == 'halving' else 1
        running = ranked[: 1 if number == len(stops) - 1 else keep]
        _announce(stage, epochs, ranked, running)
    winner = running[0]
    hosts.on_first(_record, stage, directory, trials, winner, history)
    if plan.settings.protocol != 'sampled':
        hosts.on_first(_take_over, directory / 'trials' / winner.name, directory)
    return _winning_stage(stage, trials.index(winner))


def _winning_stage(stage: Stage, number: int) -> Stage:
    return dataclasses.replace(stage.search.winners[number], key=stage.key, content=stage.content)


def can_train_together(stages: list[Stage], mesh) -> bool:
    """Whether there is one accelerator, and several stages that differ in their rate alone."""
    if jax.default_backend() == 'cpu' or mesh.size > 1 or len(stages) < 2:
        return False
    return len({stage.program_key for stage in stages}) == 1


def _advance_together(
    running: list[Trial], directory: pathlib.Path, rung: tuple[int, int], programs: Programs
) -> None:
    """_advance, where an accelerator takes it, for all at once that were finite so far.

    `rung`: epochs at which it begins and ends. Whatever stopped an earlier call, the same trials
    go on: what lies in the scratch folder is of all of them.
    """
    begun, epochs = rung
    for trial in running:
        _read_values(trial, directory / trial.name)
    going = [
        trial for trial in running
        if not any(math.isnan(value) for at, value in trial.values.items() if at <= begun)
    ]  # fmt: skip
    stages, own = [trial.stage for trial in going], [directory / trial.name for trial in going]
    if not can_train_together(stages, programs.mesh):
        return
    stage, scratch = stages[0], directory / f'together-{epochs}'
    pairs = zip(going, own, strict=True)
    done = all(_diverged(trial) or _is_done(trial, path, epochs) for trial, path in pairs)
    # Where too little memory has once made them train one by one, that goes on.
    apart = len({_newest_step(path) for path in own}) > 1 and not _newest_step(scratch)
    if done or apart:
        return
    for path in (*own, scratch):
        path.mkdir(parents=True, exist_ok=True)
    value_of = programs.validator(stage)

    @EachEpoch
    def watch(epoch: int, state) -> None:
        for number, trial in enumerate(going):
            trial.values[epoch] = _value(value_of, states.unstack(state, number))
            _write_values(trial, directory / trial.name)

    training = Training(stages, programs.of(stage), own, scratch, (watch,))
    try:
        train(training, epochs * stage.facts.steps_per_epoch)
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        print(f'{stage.name}: too little memory for {len(going)} trials together; one by one.')
    # Last: until then an interrupted search finds everything there.
    shutil.rmtree(scratch)


def _diverged(trial: Trial) -> bool:
    return any(math.isnan(value) for value in trial.values.values())


def _is_done(trial: Trial, directory: pathlib.Path, epochs: int) -> bool:
    """Whether it is trained up to `epochs`, and valued after each one."""
    steps = epochs * trial.stage.facts.steps_per_epoch
    return trial.values.keys() >= {*range(1, epochs + 1)} and _newest_step(directory) >= steps


def _newest_step(directory: pathlib.Path) -> int:
    """Of the checkpoints, 0 if there is none."""
    return hosts.on_first(lambda: max(saved_steps(directory / 'checkpoints'), default=0))


def _value(value_of: Callable[[object], float], state) -> float:
    """The state's value, NaN if it is not finite: some measures would not tell."""
    return value_of(state) if trees.is_finite(state) else math.nan


def _read_values(trial: Trial, directory: pathlib.Path) -> None:
    def read() -> dict[int, float]:
        path = directory / VALUES_FILE
        found = json.loads(path.read_text()) if path.is_file() else {}
        return {int(k): _number(v) for k, v in found.items()}

    trial.values |= hosts.on_first(read)


def _write_values(trial: Trial, directory: pathlib.Path) -> None:
    values = {str(k): _plain(v) for k, v in trial.values.items()}
    hosts.on_first(write_json, directory / VALUES_FILE, values)


def _advance(trial: Trial, directory: pathlib.Path, epochs: int, programs: Programs) -> None:
    """Trains the trial up to `epochs` and values it after each one."""
    hosts.on_first(lambda: directory.mkdir(parents=True, exist_ok=True))
    _read_values(trial, directory)
    if _is_done(trial, directory, epochs):
        return
    if _diverged(trial):
        _give_up(trial, epochs)
        return
    value_of = programs.validator(trial.stage)

    @EachEpoch
    def watch(epoch: int, state) -> None:
        # Before the state is saved: a trial killed in between values this epoch once more.
        trial.values[epoch] = _value(value_of, state)
        _write_values(trial, directory)

    training = Training([trial.stage], programs.of(trial.stage), [directory], monitors=(watch,))
    try:
        train(training, epochs * trial.stage.facts.steps_per_epoch)
    except NotFinite:
        _give_up(trial, epochs)
        _write_values(trial, directory)


def _give_up(trial: Trial, epochs: int) -> None:
    """A trial that diverged has no value at any of the epochs that are left."""
    trial.values |= dict.fromkeys({*range(1, epochs + 1)} - trial.values.keys(), math.nan)


def _rank(value: float | None, best_first: int) -> float:
    return math.inf if value is None or math.isnan(value) else best_first * value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _announce(stage: Stage, epochs: int, ranked: list[Trial], running: list[Trial]) -> None:
    told = ', '.join(f'{t.lr:g}: {t.values.get(epochs, math.nan):.4g}' for t in ranked)
    kept = ', '.join(f'{t.lr:g}' for t in running)
    head = f'{stage.name}: {judged_by(stage)[0]} of each rate after {epochs} epochs'
    print(f'{head}: {told}; {kept} goes on', flush=True)


def _record(stage, directory, trials: list[Trial], winner: Trial, history: list[dict]) -> None:
    """search.json: every trial with its values and losses per epoch, and what was spent."""
    rows = []
    for trial in trials:
        per_epoch = trial.stage.facts.steps_per_epoch
        losses = [
            row['loss'] for row in read_metrics(directory / 'trials' / trial.name / 'metrics.jsonl')
        ]
        whole = range(0, len(losses) // per_epoch * per_epoch, per_epoch)
        rows.append({
            'lr': trial.lr,
            'batch_size': trial.stage.facts.batch_size,
            'epochs': sorted(trial.values),
            'values': [_plain(trial.values[k]) for k in sorted(trial.values)],
            'losses': [sum(losses[i : i + per_epoch]) / per_epoch for i in whole],
            'rungs': [rung['epochs'] for rung in history if trial.name in rung['trials']],
            'chosen': trial is winner,
        })  # fmt: skip
    metric, higher_is_better = judged_by(stage)
    write_json(directory / SEARCH_FILE, {
        'task': stage.name,
        'protocol': stage.search.settings.protocol,
        'metric': metric,
        'higher_is_better': higher_is_better,
        'epochs': stage.search.settings.epochs,
        'trials': rows,
        # Not above what a trial that diverged had reached.
        'total_epochs': sum(len(row['losses']) for row in rows),
    })  # fmt: skip


def _take_over(trial: pathlib.Path, directory: pathlib.Path) -> None:
    """The winner's checkpoints and log as the stage's own, unless it has gone on already."""
    if (directory / 'checkpoints').is_dir() and (directory / 'metrics.jsonl').is_file():
        return
    for name in ('metrics.jsonl', 'checkpoints'):  # checkpoints last: they are what is looked for
        temporary = directory / f'{name}.taking'
        shutil.rmtree(temporary, ignore_errors=True)
        if name == 'checkpoints':
            shutil.copytree(trial / name, temporary)
            shutil.rmtree(directory / name, ignore_errors=True)
        else:
            shutil.copy(trial / name, temporary)
        temporary.rename(directory / name)
