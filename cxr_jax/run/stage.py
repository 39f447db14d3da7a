"""One stage of a curriculum: found finished, or searched, trained and handed over."""

import contextlib
import dataclasses
import errno
import json
import pathlib

import jax

from cxr_jax.run.search import SEARCH_FILE, chosen_stage, search
from cxr_jax.run.validation import Programs
from cxr_jax.runtime import hosts
from cxr_jax.store import trees
from cxr_jax.store.checkpoint import restore_tree
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import write_json
from cxr_jax.store.stages import SESSIONS, StageDirectory
from cxr_jax.train.log import read_metrics
from cxr_jax.train.loop import build_program, train
from cxr_jax.train.stage import Stage


class Damaged(Exception):
    """A finished stage whose files are not what was written."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished stage: its manifest, its params and batch_stats, its metrics."""

    manifest: dict
    variables: dict  # {'params', 'batch_stats'}, each {'backbone', 'head'}
    metrics: list[dict]
    reused: bool

    def backbone(self) -> dict:
        """{'params', 'batch_stats'} of the backbone alone."""
        return {kind: tree['backbone'] for kind, tree in self.variables.items()}


def run_stage(
    stage: Stage, backbone, parent: dict, mesh, store: pathlib.Path, provenance: dict
) -> Outcome:
    """The finished stage from the store, or trained now; `provenance` goes into its manifest.

    Raises Interrupted after a save on SIGTERM, NotFinite with the step, Busy for a stage that
    another process is training.
    """
    directory = StageDirectory(store, stage.name, stage.key)

    def load():
        return load_finished(stage, directory, backbone, parent, mesh)

    with contextlib.suppress(Damaged):
        found = hosts.on_first(load)
        if found:
            return found
    claim = directory.claim()
    with hosts.first_holds(claim.held()):
        try:  # again: before the lock was free, another process may have finished this stage
            found = hosts.on_first(load)
            if found:
                return found
        except Damaged as reason:
            aside = hosts.on_first(directory.discard)
            print(f'{directory.finished} is damaged ({reason}); set aside as {aside}.')
        return _train_stage(stage, backbone, parent, mesh, directory, provenance, claim)


def _train_stage(
    stage, backbone, parent, mesh, directory: StageDirectory, provenance, claim: Claim
) -> Outcome:
    """Searches the learning rate if asked, trains to the end and gives the stage its name."""
    partial, sessions = directory.partial, []
    hosts.on_first(lambda: partial.mkdir(exist_ok=True))
    programs = Programs(backbone, parent, mesh)
    searched = bool(stage.search)
    if searched:
        stage = search(stage, partial, programs)

    def started(step: int):
        sessions.extend(record_session(partial, stage.parent_key, provenance, step))

    total = stage.total_steps
    state, log = train(stage, programs.of(stage), partial, total, started)
    final = jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})

    def finish() -> Outcome:
        manifest = provenance | {
            'sessions': sessions,
            'task': stage.name,
            'key': stage.key,
            'parent_key': stage.parent_key,
            'content': stage.content,
            'steps': total,
            'learning_rate': stage.config.optimizer.lr,
            'batch_size': stage.facts.batch_size,
            'resumed': len(sessions) - 1,
            'wall_seconds': round(log.seconds, 2),
            'images_per_second': log.images_per_second(),
            'final_metrics': log.last_mean(stage.facts.steps_per_epoch),
            'sha256': trees.sha256(final),
            'search': json.loads((partial / SEARCH_FILE).read_text()) if searched else None,
        }
        claim.confirm()
        directory.finish(manifest)
        return Outcome(manifest, final, log.rows, reused=False)

    return hosts.on_first(finish)


def record_session(
    partial: pathlib.Path, parent_key: str | None, provenance: dict, step: int
) -> list[dict]:
    """All sessions of this stage, this one last: its first step, versions, git state, device."""
    path = partial / SESSIONS
    before = json.loads(path.read_text())['sessions'] if path.is_file() else []
    own = {'step': step} | {k: provenance[k] for k in ('versions', 'git', 'device')}
    write_json(path, {'parent_key': parent_key, 'sessions': [*before, own]})
    return [*before, own]


def load_finished(
    stage: Stage, directory: StageDirectory, backbone, parent: dict, mesh
) -> Outcome | None:
    """The finished stage, None if it is not there.

    Raises Damaged if its parameters do not hash to what its manifest says; what the system refuses
    (permissions, memory, open files) is no damage and raised as it is.
    """
    if not directory.finished.is_dir():
        return None
    try:
        manifest = directory.manifest()
        chosen = chosen_stage(stage, directory.finished)
        like = build_program(chosen, backbone, parent, mesh).like
        path = directory.finished / 'checkpoints' / str(manifest['steps']) / 'default'
        whole = restore_tree(path, trees.as_dict(like))
        variables = {k: whole[k] for k in ('params', 'batch_stats')}
        if trees.sha256(variables) != manifest['sha256']:
            raise Damaged('its parameters are not those that were saved')
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # orbax and tensorstore raise many types for broken files
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise Damaged(str(error).partition('\n')[0] or type(error).__name__) from None
    metrics = read_metrics(directory.finished / 'metrics.jsonl')
    return Outcome(manifest, variables, metrics, reused=True)
