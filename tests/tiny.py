"""Curricula small enough for tests: 34 phantoms of 40 px, two convolutions at 32 px, 8 steps.

Every task's step is compiled once per session and shared by all tests. A task's settings are those
of the preset `demo`, so its own `small`, with what stands here over them.
"""

import contextlib
import dataclasses
import functools
import json
import os
import signal
from unittest import mock

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from configs.curriculum import get_config
from cxr_jax.report import files
from cxr_jax.run import plan, stage
from cxr_jax.run.corpora import open_sets
from cxr_jax.run.initial import starting_parts
from cxr_jax.run.settings import kind_of, stages_of
from cxr_jax.runtime import parallel
from cxr_jax.store import trees
from cxr_jax.train import loop, program, validation
from cxr_jax.train import state as states
from tests import small_network

IMAGES, SIZE, STEPS = 48, 40, 8
EVERY_STAGE = {'batch_size': 8, 'epochs': 2, 'checkpoint_epochs': 1.0, 'task.image_size': 32}
OF_A_TASK = {
    'relloc': {'image_size': 36},
    'moco': {'queue_size': '16', 'key_groups': 4, 'features': 16},
    # The prototypes move from step 2 on; the queue is filled from step 4 and used from step 6 on.
    'swav': {
        'queue_size': '16', 'queue_start_epoch': 1.0, 'freeze_epochs': 0.5, 'prototypes': '6',
        'features': 16, 'small_crops': 0,
    },
}  # fmt: skip


def settings(tasks: str, readout: str = 'classify') -> dict:
    """Flat config overrides of the curriculum 'moco_rot' or 'scratch'."""
    flat = {'data.name': 'synthetic_cxr', 'data.size': SIZE, 'eval.resamples': 100}
    flat |= {'encoder.name': small_network.NAME, 'encoder.width': 8, 'keep': 'all'}
    names = (*stages_of(tasks), *(() if readout == 'none' else (readout,)))
    for name in names:
        of_a_task = OF_A_TASK.get(kind_of(name), {})
        of_a_task = {f'task.{field}': value for field, value in of_a_task.items()}
        for field, value in (EVERY_STAGE | of_a_task).items():
            flat[f'stage.{name}.{field}'] = value
    return flat


def make_config(data, tasks: str, readout: str = 'classify', **changes) -> ConfigDict:
    """Config over the prepared data; `changes` are flat."""
    config = get_config(f'{tasks},readout={readout},preset=demo')
    config.update_from_flattened_dict(settings(tasks, readout) | {'data.name': data.name} | changes)
    config.data.dir = str(data.directory.parents[1])
    return ConfigDict(config.to_dict())


def make_plan(data, tasks: str, readout: str = 'classify', devices: int = 1, **changes):
    """Plan of a curriculum over the prepared data and its neighbours."""
    config = make_config(data, tasks, readout, **changes)
    return plan.make_plan(config, open_sets(config), devices)


def make_stages(data, tasks: str, **changes) -> dict:
    """{name: Stage} of a curriculum."""
    return {each.name: each for each in make_plan(data, tasks, **changes).stages}


def one_device():
    return parallel.data_mesh(jax.devices()[:1])


@functools.cache
def fresh_parts(encoder) -> dict:
    """The parts that a first stage starts from."""
    return starting_parts(encoder, '', 0, 32)


def environment(devices: int, **variables) -> dict:
    """For a process of its own that computes as this one does, on `devices` fake devices."""
    flags = os.environ['XLA_FLAGS'].replace('device_count=8', f'device_count={devices}')
    # As many threads as here, with eight devices: the order of sums depends on it.
    threads = max(8, len(os.sched_getaffinity(0)))
    return os.environ | {'XLA_FLAGS': flags, 'NPROC': str(threads)} | variables


ORIGIN = {'run': {}, 'notes': [], 'versions': {}, 'git': 'unknown', 'device': {}}


def run(each, store, parent=None, around=lambda step: step, **place):
    """stage.run_stage of the Stage; `around` wraps its compiled step."""
    with compiled_once(around):
        where = stage.Place(store, one_device(), **({'keep': 'all'} | place))
        return stage.run_stage(each, parent or fresh_parts(each.encoder), where, ORIGIN)


_build_program, _built = program.build_program, {}


def build_once(each, parent, mesh):
    # Neither its parent nor the prepared images change what is compiled for a stage.
    what = each.name, each.program_key, each.encoder, each.seed, mesh
    if what not in _built:
        _built[what] = _build_program(each, parent, mesh)
    return dataclasses.replace(_built[what], parent=parent)


@contextlib.contextmanager
def compiled_once(around=lambda step: step, mesh=None, rendered=False):
    """While it lasts, equal steps are compiled once, for one device or `mesh`.

    Pictures of a report are drawn and written empty unless `rendered`: that takes longer than all
    else in a small run. How they look: tests/report.
    """

    def build(each, parent, own_mesh):
        program = build_once(each, parent, own_mesh)
        steps = {name: around(getattr(program, name)) for name in ('step', 'step_together')}
        return dataclasses.replace(program, **steps)

    mesh = mesh or one_device()
    with (
        contextlib.nullcontext() if rendered else mock.patch.object(files, '_save', write_nothing),
        mock.patch.object(validation, 'build_program', build),
        mock.patch.object(parallel, 'data_mesh', lambda devices=None: mesh),
    ):
        yield


def write_nothing(figure, path):
    path.write_bytes(b'')


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


def first_state(each, store, parent):
    """The TrainState with which run_stage begins to train, on the host."""

    class Seen(Exception):
        pass

    def look(self, state, until):
        raise Seen(jax.device_get(state))

    with mock.patch.object(loop._Loop, 'run', look):
        try:
            run(each, store, parent)
        except Seen as seen:
            return seen.args[0]
    raise AssertionError('nothing was trained')


def saved(directory, step=STEPS) -> dict:
    """{name: array} of the TrainState that a stage's directory holds of this step."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory.resolve() / 'checkpoints' / str(step) / 'arrays')


def last_state(finished) -> str:
    """Hash of the whole TrainState that a finished stage's directory holds."""
    arrays = saved(finished)
    fields = {name.partition('/')[0] for name in arrays}
    assert {'step', 'params', 'batch_stats', 'opt_state', 'key', 'lr'} <= fields
    assert fields <= states.TrainState.__dataclass_fields__.keys()
    return trees.sha256(jax.device_get(arrays))


def curve(path) -> list[dict]:
    """Rows of a metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ('seconds', 'session')} for row in rows]


def assert_same_training(one, other):
    """Both StageDirectories are finished and whole: same parameters, whole state and log."""
    assert one.description()['params_sha256'] == other.description()['params_sha256']
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
