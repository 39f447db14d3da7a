"""One stage of a curriculum: train, checkpoint, hand over. The only training loop."""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import pathlib

import jax

from cxr_jax import parallel
from cxr_jax import state as states
from cxr_jax.checkpoint import Checkpoints, restore_tree
from cxr_jax.files import write_json
from cxr_jax.interrupt import Interrupted, InterruptFlag
from cxr_jax.optim import learning_rate, optimizer
from cxr_jax.progress import StageLog, read_metrics
from cxr_jax.stage_store import StageDirectory
from cxr_jax.tasks.base import Facts, Task
from cxr_jax.train_step import make_train_step
from cxr_jax.views.region import needs_masks
from data_pipelines import loader
from data_pipelines.errors import UserError

LOG_STEPS = 10  # steps between two fetches of metrics from the devices
IN_FLIGHT = 2  # batches on their way to the devices


class NotFinite(UserError):
    """The loss or the state became NaN or infinite."""


class Damaged(Exception):
    """A finished stage whose files are not what was written."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything that determines one stage's result, resolved (no `auto` left)."""

    name: str
    task: Task
    config: object  # ConfigDict of config.stage.<name>
    facts: Facts
    region: str
    seed: int
    content: dict  # what its key is made of
    key: str
    parent_key: str | None

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.facts.steps_per_epoch


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


def stage_seed(seed: int, name: str) -> int:
    """Seed of a stage's head, views and order of the data: the run's seed and the task's name."""
    return int(hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()[:8], 16)


def build_stage(stage: Stage, backbone):
    """(function parent -> state at step 0, transform, schedule) of a stage."""
    steps = stage.facts.steps_per_epoch
    schedule = learning_rate(stage.config.optimizer, stage.total_steps, steps)
    frozen = stage.task.frozen(stage.facts)
    transform = optimizer(stage.config.optimizer, schedule, frozen)
    key = jax.random.key(stage_seed(stage.seed, stage.name))

    def create(parent):
        params, batch_stats = parent['params'], parent['batch_stats']
        return states.create(stage.task, backbone, transform, params, batch_stats, key)

    return create, transform, schedule


def run_stage(
    stage: Stage, backbone, parent: dict, data, mesh, store: pathlib.Path, provenance: dict
) -> Outcome:
    """The finished stage from the store, or trained now; `provenance` goes into its manifest.

    Raises Interrupted after a save on SIGTERM, NotFinite with the step, UserError for a stage that
    another process is training.
    """
    create, transform, schedule = build_stage(stage, backbone)
    like = parallel.abstract_replicated(mesh, jax.eval_shape(create, parent))
    directory = StageDirectory(store, stage.name, stage.key)
    with contextlib.suppress(Damaged):
        found = load_finished(directory, like)
        if found:
            return found
    gray = data.statistics['full']['mean']
    step = make_train_step(stage.task, backbone, transform, schedule, mesh, stage.region, gray)
    with directory.lock():
        try:  # again: before the lock was free, another process may have finished this stage
            found = load_finished(directory, like)
            if found:
                return found
        except Damaged as reason:
            aside = directory.discard()
            print(f'{directory.finished} is damaged ({reason}); set aside as {aside}.')
        partial, total = directory.partial, stage.total_steps
        partial.mkdir(exist_ok=True)
        with contextlib.closing(Checkpoints(partial)) as checkpoints:
            state = checkpoints.restore(like)
            # Through an identity on the devices: arrays as orbax restores them may refuse donation.
            state = parallel.replicate(mesh, jax.jit(create)(parent) if state is None else state)
            sessions = record_session(partial, provenance, int(state.step))
            log = StageLog(partial, stage.name, int(state.step), total, stage.facts.batch_size)
            with contextlib.closing(log):
                state = _train(stage, step, state, data, mesh, checkpoints, log)
        final = jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})
        manifest = provenance | {
            'sessions': sessions,
            'task': stage.name,
            'key': stage.key,
            'parent_key': stage.parent_key,
            'content': stage.content,
            'steps': total,
            'resumed': len(sessions) - 1,
            'wall_seconds': round(log.seconds, 2),
            'images_per_second': log.images_per_second(),
            'final_metrics': log.last_mean(stage.facts.steps_per_epoch),
            'sha256': states.sha256(final),
        }
        directory.finish(manifest)
    return Outcome(manifest, final, log.rows, reused=False)


def _train(stage: Stage, step, state, data, mesh, checkpoints: Checkpoints, log: StageLog):
    """Runs the remaining steps; saves every `config.checkpoint_epochs` and at the end."""
    first, total = int(state.step), stage.total_steps
    per_epoch = stage.facts.steps_per_epoch
    every = max(round(stage.config.checkpoint_epochs * per_epoch), 1)
    pending: list[tuple[int, dict]] = []

    def flush():
        rows = [
            {'step': i} | {k: float(v) for k, v in jax.device_get(metrics).items()}
            for i, metrics in pending
        ]
        pending.clear()
        for row in rows:
            if not math.isfinite(row['loss']) or not math.isfinite(row['grad_norm']):
                raise NotFinite(_advice(stage, row, checkpoints.directory))
        if rows:
            log.write(rows, rows[-1]['step'] / per_epoch)

    def save(wait):
        # The losses are those before the last update, which may itself have left their range.
        if not states.is_finite(state):
            raise NotFinite(_advice(stage, log.rows[-1], checkpoints.directory))
        log.sync()
        checkpoints.save(state, wait)

    batches = _batches_on_devices(stage, data, mesh, first)
    with InterruptFlag() as interrupt:
        for i, batch in zip(range(first + 1, total + 1), batches, strict=False):
            state, metrics = step(state, batch)
            pending.append((i, metrics))
            # Read once: a signal during the lines below is for the step after.
            stopping = interrupt.raised
            saving = i % every == 0 or i == total or stopping
            if i % LOG_STEPS == 0 or saving:
                # A state is saved only after the losses up to it are known to be finite.
                flush()
            if saving:
                save(wait=i == total or stopping)
            if stopping:
                break
        if interrupt.raised:
            step_now = int(state.step)
            raise Interrupted(f'stage {stage.name} stopped and saved at step {step_now} of {total}')
    return state


def _batches_on_devices(stage: Stage, data, mesh, start: int):
    """Batches from `start` on, a few of them already on their way to the devices."""
    shard = (jax.process_index(), jax.process_count())
    batches = loader.train_batches(
        data, 'train', stage.facts.batch_size, stage_seed(stage.seed, stage.name), start, shard,
        masks=needs_masks(stage.region),
    )  # fmt: skip
    queue = collections.deque()
    for batch in batches:
        queue.append(parallel.put_rows(mesh, batch))
        if len(queue) >= IN_FLIGHT:
            yield queue.popleft()


def _advice(stage: Stage, row: dict, checkpoints: pathlib.Path) -> str:
    rate = stage.config.optimizer.lr
    return (
        f'The numbers of stage {stage.name} are no longer finite at step {row["step"]}: loss '
        f'{row["loss"]}, gradient norm {row["grad_norm"]}, learning rate '
        f'{row["learning_rate"]:.3g}. Try a lower rate '
        f'(--config.stage.{stage.name}.optimizer.lr={rate / 3:.2g}) or a longer warm-up '
        f'(--config.stage.{stage.name}.optimizer.warmup_epochs=1). What was saved before that is '
        f'finite and kept in {checkpoints}.'
    )


def record_session(partial: pathlib.Path, provenance: dict, step: int) -> list[dict]:
    """All sessions of this stage, this one last: its first step, versions, git state, device."""
    path = partial / 'sessions.json'
    before = json.loads(path.read_text())['sessions'] if path.is_file() else []
    own = {'step': step} | {k: provenance[k] for k in ('versions', 'git', 'device')}
    write_json(path, {'sessions': [*before, own]})
    return [*before, own]


def load_finished(directory: StageDirectory, like) -> Outcome | None:
    """The finished stage, None if it is not there.

    Raises Damaged if its parameters do not hash to what its manifest says; what the system refuses
    (permissions, memory, open files) is no damage and raised as it is.
    """
    if not directory.finished.is_dir():
        return None
    try:
        manifest = directory.manifest()
        path = directory.finished / 'checkpoints' / str(manifest['steps']) / 'default'
        whole = restore_tree(path, states.as_dict(like))
        variables = jax.device_get({k: whole[k] for k in ('params', 'batch_stats')})
        if states.sha256(variables) != manifest['sha256']:
            raise Damaged('its parameters are not those that were saved')
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # orbax and tensorstore raise many types for broken files
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise Damaged(str(error).partition('\n')[0] or type(error).__name__) from None
    metrics = read_metrics(directory.finished / 'metrics.jsonl')
    return Outcome(manifest, variables, metrics, reused=True)
