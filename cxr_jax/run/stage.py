"""One stage of a curriculum: found finished, or searched, trained and handed over."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import jax

from cxr_jax.run.search import SEARCH_FILE, search
from cxr_jax.runtime import hosts
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import trees
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import Damaged, write_json
from cxr_jax.store.identity import derived_of
from cxr_jax.store.stages import SESSIONS, StageDirectory
from cxr_jax.train.early_stop import EarlyStop
from cxr_jax.train.log import read_metrics
from cxr_jax.train.loop import train
from cxr_jax.train.monitor import Monitor
from cxr_jax.train.program import Training
from cxr_jax.train.stage import Stage
from cxr_jax.train.validation import Programs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished stage: its bundle's description and parts, its metrics."""

    description: dict
    parts: dict  # {part: {'params', 'batch_stats'}}: what the stage leaves
    metrics: list[dict]
    reused: bool
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Place:
    """Where stages lie, and how they are run there: no key knows of any of it."""

    store: pathlib.Path
    mesh: object
    keep: str = 'bundle'  # or all: checkpoints and trials too
    # The monitors of a stage that trains in a folder.
    watch: Callable[[Stage, pathlib.Path], Sequence[Monitor]] = lambda stage, directory: ()


def run_stage(stage: Stage, parent: dict, place: Place, origin: dict) -> Outcome:
    """The finished stage from the store, or trained now; `origin` goes into its bundle.

    `parent`: the parts that the stage before left. Raises Interrupted after a save on SIGTERM,
    NotFinite with the step, Busy for a stage that another process is training, UserError for a
    finished stage that this version cannot read: it is never trained again for that.
    """
    directory = StageDirectory(place.store, stage.name, stage.key)

    def find() -> Outcome | None:
        found = directory.load()
        if found is None:
            return None
        metrics = read_metrics(directory.finished / 'metrics.jsonl')
        return Outcome(*found, metrics, reused=True, folder=directory.finished)

    with contextlib.suppress(Damaged):
        found = hosts.on_first(find)
        if found:
            return found
    claim = directory.claim()
    with hosts.first_holds(claim.held()):
        hosts.on_first(directory.bring)
        try:  # again: before the claim was free, another process may have finished this stage
            found = hosts.on_first(find)
            if found:
                return found
        except Damaged as reason:
            aside = hosts.on_first(directory.discard)
            print(f'{reason} It is set aside as {aside} and trained again.')
        try:
            return _train_stage(stage, parent, place, directory, origin, claim)
        except Interrupted:
            hosts.on_first(directory.copy_up)
            raise


def _train_stage(
    stage: Stage, parent: dict, place: Place, directory: StageDirectory, origin: dict, claim: Claim
) -> Outcome:
    """Searches the learning rate if asked, trains to the end and gives the stage its name."""
    partial, sessions = directory.partial, []
    hosts.on_first(lambda: partial.mkdir(exist_ok=True))
    programs = Programs(parent, place.mesh)
    searched = bool(stage.search)
    if searched:
        stage = search(stage, partial, programs)
    watching, stops = [*place.watch(stage, partial)], stage.settings.early_stop.by != 'none'
    if stops:
        watching.append(EarlyStop(stage, partial, place.mesh))
    training = Training([stage], programs.of(stage), [partial], monitors=watching)

    def started(step: int):
        sessions.extend(_record_session(partial, stage.parent_key, origin, step))

    state, (log,) = train(training, stage.total_steps, started)
    left = {part: state.parts[part] for part in stage.task.leaves}
    parts = jax.device_get(left)

    def finish() -> Outcome:
        found = json.loads((partial / SEARCH_FILE).read_text()) if searched else None
        chosen, told = watching[-1].chosen(parts) if stops else (parts, {})
        description = origin | _description(stage, log, told) | {
            'sessions': sessions,
            'resumed': len(sessions) - 1,
            'params_sha256': trees.sha256(chosen),
            'search': found,
        }  # fmt: skip
        claim.confirm()
        description = directory.finish(chosen, description, place.keep)
        return Outcome(description, chosen, log.rows, reused=False, folder=directory.finished)

    return hosts.on_first(finish)


def _description(stage: Stage, log, stopped: dict) -> dict:
    """What a bundle says of the stage that left it; `stopped`: of one that could end early."""
    left = stopped.get('early_stop', {'step': stage.total_steps})['step']
    data = stage.train.corpus.describe() | {
        'left_out': dataclasses.asdict(stage.left_out),
        'balance': stage.settings.data.balance,
    }
    return {
        'stage': stage.name,
        'task': stage.kind,
        'key': stage.key,
        'parent_key': stage.parent_key,
        'content': stage.content,
        'encoder': stage.content['encoder'],
        'contract': dataclasses.asdict(stage.encoder.contract),
        'target': list(stage.facts.names) or None,
        'derived': derived_of(stage.task),
        'data': data,
        'steps': stage.total_steps,
        'epochs': stage.settings.epochs,
        'learning_rate': stage.optimizer.lr if stage.task.trains else None,
        'batch_size': stage.facts.batch_size,
        'wall_seconds': round(log.seconds, 2),
        'images_per_second': log.images_per_second(),
        'final_metrics': log.mean_before(left, stage.facts.steps_per_epoch),
        'chance_loss': stage.task.chance_loss(),
        'early_stop': None,
    } | stopped


def _record_session(
    partial: pathlib.Path, parent_key: str | None, origin: dict, step: int
) -> list[dict]:
    """All sessions of this stage, this one last: its first step, versions, git state, device."""
    path = partial / SESSIONS
    before = json.loads(path.read_text())['sessions'] if path.is_file() else []
    own = {'step': step} | {k: origin[k] for k in ('versions', 'git', 'device')}
    write_json(path, {'parent_key': parent_key, 'sessions': [*before, own]})
    return [*before, own]
