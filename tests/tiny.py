"""Curricula small enough for tests: 34 phantoms of 40 px, ResNet-18 of width 8 at 32 px, 8 steps.

Every task's step is compiled once per session and shared by all tests.
"""

import contextlib
import functools
import json
import os
import signal
from unittest import mock

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from configs.curriculum import get_config
from cxr_jax.models.encoder import build_backbone
from cxr_jax.run import curriculum, stage
from cxr_jax.run.plan import make_plan
from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.train import loop as training
from cxr_jax.train import state as states

IMAGES, SIZE, STEPS = 48, 40, 8
EVERY_STAGE = {'batch_size': 8, 'epochs': 2, 'checkpoint_epochs': 1.0, 'task.image_size': 32}
OF_A_TASK = {
    'relloc': {'image_size': 36},
    'moco': {'queue_size': '16', 'key_groups': 2, 'features': 16},
    # The prototypes move from step 2 on; the queue is filled from step 4 and used from step 6 on.
    'swav': {
        'queue_size': '16', 'queue_start_epoch': 1.0, 'freeze_epochs': 0.5, 'prototypes': '6',
        'features': 16, 'small_crops': 0,
    },
}  # fmt: skip


def settings(tasks: str) -> dict:
    """Flat config overrides of the curriculum 'moco_rot' or 'scratch'."""
    flat = {'data.name': 'synthetic_cxr', 'data.size': SIZE, 'eval.resamples': 100}
    flat |= {'backbone.depth': 18, 'backbone.width': 8}
    for name in (*tasks.replace('scratch', '').split('_'), 'classify'):
        of_a_task = {f'task.{field}': value for field, value in OF_A_TASK.get(name, {}).items()}
        for field, value in (EVERY_STAGE | of_a_task).items() if name else ():
            flat[f'stage.{name}.{field}'] = value
    return flat


def make_config(data, tasks: str, **changes) -> ConfigDict:
    """Config over the prepared data; `changes` are flat."""
    config = get_config(f'{tasks},preset=demo')
    config.update_from_flattened_dict(settings(tasks) | changes)
    config.data.dir = str(data.directory.parents[1])
    return ConfigDict(config.to_dict())


def make_stages(data, tasks: str, **changes) -> dict:
    """{task: Stage} of a curriculum."""
    plan = make_plan(make_config(data, tasks, **changes), data, devices=1)
    return {each.name: each for each in plan.stages}


def one_device():
    return parallel.data_mesh(jax.devices()[:1])


@functools.cache
def network(mean: float, std: float):
    """(backbone, its fresh variables)."""
    config = get_config('scratch,preset=demo')
    config.update_from_flattened_dict(settings('scratch'))
    backbone = build_backbone(config.backbone, mean, std)
    return backbone, curriculum.initial_backbone(config, backbone, 32)


def network_of(data):
    contract = data.contract('full')
    return network(contract['mean'], contract['std'])


def environment(devices: int, **variables) -> dict:
    """For a process of its own that computes as this one does, on `devices` fake devices."""
    flags = os.environ['XLA_FLAGS'].replace('device_count=8', f'device_count={devices}')
    # As many threads as here, with eight devices: the order of sums depends on it.
    threads = max(8, len(os.sched_getaffinity(0)))
    return os.environ | {'XLA_FLAGS': flags, 'NPROC': str(threads)} | variables


def keeping_compiled(folder) -> dict:
    """Variables for `environment`: several such processes compile everything once."""
    return {
        'JAX_COMPILATION_CACHE_DIR': str(folder),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }


ORIGIN = {'versions': {}, 'git': 'unknown', 'device': {}}


def run(each, data, store, parent=None, around=lambda step: step):
    """stage.run_stage of the Stage; `around` wraps its compiled step."""
    backbone, fresh = network_of(data)
    with compiled_once(around):
        return stage.run_stage(each, backbone, parent or fresh, one_device(), store, ORIGIN)


_build_stage, _make_train_step = training.build_stage, functools.cache(training.make_train_step)
_built = {}


def _build_once(each, backbone):
    # Neither its parent nor the prepared data changes what is compiled for a stage.
    what = [each.content[name] for name in ('task', 'settings', 'seed', 'backbone')]
    # Nor its rate, which is an array of the state.
    what[1] = what[1] | {'search': None, 'optimizer': what[1]['optimizer'] | {'lr': None}}
    what[3] = {name: value for name, value in what[3].items() if name != 'weights'}
    what = json.dumps([what, each.total_steps, backbone.mean])
    if what not in _built:
        _built[what] = _build_stage(each, backbone)
    return _built[what]


@contextlib.contextmanager
def compiled_once(around=lambda step: step, mesh=None):
    """While it lasts, equal steps are compiled once, for one device or `mesh`."""

    def make(*arguments):
        return around(_make_train_step(*arguments))

    mesh = mesh or one_device()
    with (
        mock.patch.object(training, 'build_stage', _build_once),
        mock.patch.object(training, 'make_train_step', make),
        mock.patch.object(parallel, 'data_mesh', lambda devices=None: mesh),
    ):
        yield


def sigterm_at(number: int):
    """For `around`: this process gets SIGTERM while it computes step `number`."""

    def around(step):
        def stepping(state, batch):
            now = int(state.step) + 1
            result = step(state, batch)
            if now == number:
                signal.raise_signal(signal.SIGTERM)
            return result

        return stepping

    return around


def no_training(step):
    """For `around`: computing a step is an error."""

    def stepping(state, batch):
        raise AssertionError('a step was computed')

    return stepping


def last_state(finished) -> str:
    """Hash of the whole TrainState that a finished stage's directory holds."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(finished.resolve() / 'checkpoints' / str(STEPS) / 'default')
    assert tree.keys() == states.TrainState.__dataclass_fields__.keys()
    return trees.sha256(jax.device_get(tree))


def curve(path) -> list[dict]:
    """Rows of a metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ('seconds', 'session')} for row in rows]


def assert_same_training(one, other):
    """Both StageDirectories are finished and whole: same parameters, whole state and log."""
    assert one.manifest()['sha256'] == other.manifest()['sha256']
    assert last_state(one.finished) == last_state(other.finished)
    rows = curve(one.finished / 'metrics.jsonl')
    assert rows == curve(other.finished / 'metrics.jsonl')
    assert [row['step'] for row in rows] == list(range(1, STEPS + 1))


def largest_file(folder):
    """Of a checkpoint: holds its arrays."""
    files = [path for path in folder.rglob('*') if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder):
    """Cuts its largest file in half."""
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)
