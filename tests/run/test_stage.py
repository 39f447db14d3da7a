"""Stages in their store: found finished, damaged, locked, diverging, handed over, named."""

import dataclasses
import errno
import json
import math
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cxr_jax.run import stage
from cxr_jax.store import trees
from cxr_jax.store.stages import StageDirectory
from cxr_jax.train import loop as training
from data_pipelines.errors import UserError
from tests import tiny


@pytest.fixture
def finished(undisturbed, tmp_path):
    """(Stage, a copy of its finished directory) of a classifier."""
    each, _, directory = undisturbed('classify')
    copy = StageDirectory(tmp_path, each.name, each.key)
    shutil.copytree(directory.finished, copy.finished)
    return each, copy


def test_a_finished_stage_is_not_trained_again(tiny_data, undisturbed, finished):
    each, directory = finished
    _, expected, _ = undisturbed('classify')
    outcome = tiny.run(each, tiny_data, directory.store, around=tiny.no_training)
    assert outcome.reused
    assert outcome.manifest == expected.manifest and outcome.metrics == expected.metrics
    assert trees.sha256(outcome.variables) == trees.sha256(expected.variables)


def change_a_parameter(directory):
    """The files are whole, as if of another training."""
    path = directory / 'checkpoints' / '8' / 'default'
    with ocp.StandardCheckpointer() as checkpointer:
        tree = jax.device_get(checkpointer.restore(path))
        bias = tree['params']['head']['linear']['bias']
        tree['params']['head']['linear']['bias'] = np.nextafter(bias, np.float32(1))
        checkpointer.save(path, tree, force=True)


def cut_parameters(directory):
    tiny.truncate(directory / 'checkpoints' / '8')


def cut_manifest(directory):
    os.truncate(directory / 'manifest.json', 100)


def delete_manifest(directory):
    (directory / 'manifest.json').unlink()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # orbax's threads
@pytest.mark.parametrize(
    'damage', [change_a_parameter, cut_parameters, cut_manifest, delete_manifest]
)
def test_a_damaged_finished_stage_is_trained_anew(damage, tiny_data, undisturbed, finished, capsys):
    each, directory = finished
    damage(directory.finished)
    outcome = tiny.run(each, tiny_data, directory.store)
    assert not outcome.reused and outcome.manifest['resumed'] == 0
    tiny.assert_same_training(directory, undisturbed('classify')[2])
    aside = directory.finished.with_name(directory.finished.name + '.broken')
    said = capsys.readouterr().out
    assert aside.is_dir() and 'is damaged (' in said and f'set aside as {aside}' in said


def test_what_the_system_refuses_is_no_damage(tiny_data, finished, monkeypatch):
    """Too many open files: the stage stays where it is, and the error is told."""
    each, directory = finished
    refusal = OSError(errno.EMFILE, 'Too many open files')

    def refuse(*unused):
        raise refusal

    with monkeypatch.context() as patch, pytest.raises(OSError, match='Too many open files'):
        patch.setattr(stage, 'restore_tree', refuse)
        tiny.run(each, tiny_data, directory.store)
    assert tiny.run(each, tiny_data, directory.store, around=tiny.no_training).reused


def test_a_stage_that_another_process_trains(tiny_data, undisturbed, tmp_path):
    """It is refused while that process lives, and free when it was killed."""
    each, _, _ = undisturbed('classify')
    directory = StageDirectory(tmp_path, each.name, each.key)
    script = (
        'import pathlib, time\n'
        'from cxr_jax.store.stages import StageDirectory\n'
        f'store = pathlib.Path({str(tmp_path)!r})\n'
        f'directory = StageDirectory(store, {each.name!r}, {each.key!r})\n'
        'with directory.claim().held(): print("locked", flush=True); time.sleep(600)'
    )
    other = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b'locked\n'
        with pytest.raises(UserError, match=f'Another process is training .*{each.key}'):
            tiny.run(each, tiny_data, tmp_path, around=tiny.no_training)
    finally:
        other.kill()
        other.communicate()
    assert not directory.partial.exists()
    with directory.claim().held():
        pass


def test_a_stage_that_another_process_has_just_finished(
    tiny_data, undisturbed, tmp_path, monkeypatch
):
    """Between the look into the store and the lock, the other one gives it its final name."""
    each, expected, source = undisturbed('classify')
    directory = StageDirectory(tmp_path, each.name, each.key)

    claim = StageDirectory.claim

    def finish_elsewhere(self):
        shutil.copytree(source.finished, directory.finished)
        return claim(self)

    monkeypatch.setattr(StageDirectory, 'claim', finish_elsewhere)
    outcome = tiny.run(each, tiny_data, tmp_path, around=tiny.no_training)
    assert outcome.reused and outcome.manifest == expected.manifest
    assert not directory.partial.exists()


@pytest.mark.filterwarnings('ignore:overflow encountered')
@pytest.mark.parametrize('every', [1, 4])
def test_a_rate_that_diverges(every, tiny_data, tmp_path):
    """From step 5 on the rate is infinite: that step's loss is finite still, its weights are not.

    With a save after step 5 the weights tell, otherwise the loss of step 6.
    """
    optimizer = 'stage.classify.optimizer'
    diverging = {
        f'{optimizer}.schedule': 'step', f'{optimizer}.milestones': (0.5, 2.0),
        f'{optimizer}.step_factor': 1e39, f'{optimizer}.warmup_epochs': 0.0,
        'stage.classify.checkpoint_epochs': every / 4,
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'scratch', **diverging)['classify']
    with pytest.raises(training.NotFinite) as error:
        tiny.run(each, tiny_data, tmp_path)
    message = str(error.value)
    assert isinstance(error.value, UserError) and 'stage classify' in message
    assert f'at step {5 if every == 1 else 6}:' in message
    rate = each.config.optimizer.lr
    assert f'--config.stage.classify.optimizer.lr={rate / 3:.2g}' in message
    directory = StageDirectory(tmp_path, each.name, each.key)
    assert not directory.finished.exists()
    saved = directory.partial / 'checkpoints'
    assert str(saved) in message
    assert sorted(path.name for path in saved.iterdir()) == (['3', '4'] if every == 1 else ['4'])
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(saved / '4' / 'default')
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert all(
        math.isfinite(row['loss']) for row in tiny.curve(directory.partial / 'metrics.jsonl')
    )


def backbone_tree():
    return {
        'params': {'conv': {'kernel': np.ones((3, 3, 1, 8), np.float32)}, 'scale': np.ones(8)},
        'batch_stats': {'mean': np.zeros(8, np.float32)},
    }


def test_a_backbone_that_does_not_fit_is_refused():
    parent, expected = backbone_tree(), backbone_tree()
    assert trees.hand_over_backbone(parent, expected, 'stage moco') is parent
    del parent['batch_stats']['mean']
    parent['params']['extra'] = np.ones(2, np.float32)
    parent['params']['conv']['kernel'] = np.ones((3, 3, 3, 8), np.float32)
    parent['params']['scale'] = np.ones(8, np.float16)
    with pytest.raises(UserError) as error:
        trees.hand_over_backbone(parent, expected, 'stage moco')
    message = str(error.value)
    assert '4 leaves differ' in message
    for line in (
        "batch_stats/mean: stage moco has nothing, the model ((8,), 'float32')",
        "params/extra: stage moco has ((2,), 'float32'), the model nothing",
        "params/conv/kernel: stage moco has ((3, 3, 3, 8), 'float32'), "
        "the model ((3, 3, 1, 8), 'float32')",
        "params/scale: stage moco has ((8,), 'float16'), the model ((8,), 'float64')",
    ):
        assert line in message


def first_state(each, data, store, parent, monkeypatch):
    """The TrainState with which run_stage begins to train."""

    class Seen(Exception):
        pass

    def look(each, step, state, *unused):
        raise Seen(jax.device_get(state))

    with monkeypatch.context() as patch, pytest.raises(Seen) as seen:
        patch.setattr(training, '_run_steps', look)
        tiny.run(each, data, store, parent)
    return seen.value.args[0]


def test_a_stage_starts_from_the_backbone_that_was_left(
    tiny_data, undisturbed, tmp_path, monkeypatch
):
    """Exactly, with a head, optimiser and MoCo teacher of its own, for every next task."""
    _, outcome, _ = undisturbed('rot')
    left, head = outcome.backbone(), outcome.variables['params']['head']
    for tasks in ('rot_moco', 'rot'):
        each = list(tiny.make_stages(tiny_data, tasks).values())[1]
        state = first_state(each, tiny_data, tmp_path, left, monkeypatch)
        assert state.step == 0
        assert trees.sha256(state.params['backbone']) == trees.sha256(left['params'])
        assert trees.sha256(state.batch_stats['backbone']) == trees.sha256(left['batch_stats'])
        assert jax.tree.structure(state.params['head']) != jax.tree.structure(head) or (
            trees.sha256(state.params['head']) != trees.sha256(head)
        )
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
        if each.name == 'moco':
            assert trees.sha256(state.extra['teacher']) == trees.sha256(state.params)
            assert trees.sha256(state.extra['teacher_stats']) == trees.sha256(left['batch_stats'])


def test_curricula_share_their_common_stages(tiny_data, undisturbed):
    each, expected, directory = undisturbed('moco')
    for tasks in ('moco_rot', 'moco_swav'):
        stages = tiny.make_stages(tiny_data, tasks)
        assert stages['moco'].key == each.key
        outcome = tiny.run(stages['moco'], tiny_data, directory.store, around=tiny.no_training)
        assert outcome.reused and outcome.manifest['sha256'] == expected.manifest['sha256']


def keys(data, **changes):
    return [each.key for each in tiny.make_stages(data, 'rot_moco', **changes).values()]


CHANGES = {
    'seed': ({'seed': 1}, 0),
    'region': ({'data.region': 'lungs_black'}, 0),
    'width': ({'backbone.width': 16}, 0),
    'channels': ({'backbone.channels': 3}, 0),
    'rate of stage 1': ({'stage.rot.optimizer.lr': 0.0123}, 0),
    'field of stage 1': ({'stage.rot.task.augment.rotation': 5.5}, 0),
    'temperature of stage 2': ({'stage.moco.task.temperature': 0.123}, 1),
    'epochs of stage 2': ({'stage.moco.epochs': 3}, 1),
    'batch size of stage 3': ({'stage.classify.batch_size': 16}, 2),
    'checkpoints': ({'stage.rot.checkpoint_epochs': 0.25}, 3),
    'store': ({'store': 'elsewhere'}, 3),
    'evaluation': ({'eval.batch_size': 7, 'eval.resamples': 5}, 3),
}


@pytest.mark.parametrize('what', CHANGES)
def test_a_key_is_of_all_that_determines_the_result(what, tiny_data):
    """The stages from number `first` on get other keys, those before keep theirs."""
    changes, first = CHANGES[what]
    before, after = keys(tiny_data), keys(tiny_data, **changes)
    assert [a == b for a, b in zip(before, after, strict=True)] == [n < first for n in range(3)]


def test_a_key_is_of_data_and_parents(tiny_data):
    other = dataclasses.replace(tiny_data, fingerprint='0' * 64)
    assert not set(keys(tiny_data)) & set(keys(other))
    moved = dataclasses.replace(tiny_data, name='same records under another name')
    assert keys(tiny_data) == keys(moved)
    alone = tiny.make_stages(tiny_data, 'moco')['moco'].key
    assert alone not in keys(tiny_data)
    content = json.loads(json.dumps(tiny.make_stages(tiny_data, 'rot_moco')['moco'].content))
    assert content['parent'] == keys(tiny_data)[0]
