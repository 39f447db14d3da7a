"""Stages in their store: found finished, refused, damaged, locked, diverging, handed over."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cxr_jax.run import curriculum
from cxr_jax.runtime.interrupt import Interrupted
from cxr_jax.store import bundle, trees
from cxr_jax.store.files import Damaged
from cxr_jax.store.stages import StageDirectory
from cxr_jax.tasks import base
from cxr_jax.train import loop
from data_pipelines.errors import UserError
from tests import tiny


@pytest.fixture
def finished(undisturbed, tmp_path):
    """(Stage, a copy of its finished directory) of a classifier."""
    each, _, directory = undisturbed('classify')
    copy = StageDirectory(tmp_path, each.name, each.key)
    shutil.copytree(directory.finished, copy.finished)
    return each, copy


def test_a_finished_stage_is_not_trained_again(undisturbed, finished):
    each, directory = finished
    _, expected, _ = undisturbed('classify')
    outcome = tiny.run(each, directory.store, around=tiny.no_training)
    assert outcome.reused and outcome.folder == directory.finished
    assert outcome.description == expected.description and outcome.metrics == expected.metrics
    assert outcome.parts.keys() == expected.parts.keys() == {'encoder', 'head'}
    assert trees.sha256(outcome.parts) == trees.sha256(expected.parts)
    assert trees.sha256(outcome.parts) == outcome.description['params_sha256']


def change_a_parameter(directory):
    """The file is whole, as if of another training."""
    path = directory / 'head.safetensors'
    arrays = load_file(path)
    bias = arrays['params/linear/bias']
    arrays['params/linear/bias'] = np.nextafter(bias, np.float32(1))
    save_file(arrays, path)


def cut_parameters(directory):
    os.truncate(directory / 'encoder.safetensors', 100_000)


def delete_a_part(directory):
    (directory / 'head.safetensors').unlink()


def cut_description(directory):
    os.truncate(directory / 'bundle.json', 100)


def delete_description(directory):
    (directory / 'bundle.json').unlink()


@pytest.mark.parametrize(
    'damage',
    [change_a_parameter, cut_parameters, delete_a_part, cut_description, delete_description],
)
def test_a_damaged_finished_stage_is_trained_anew(damage, undisturbed, finished, capsys):
    each, directory = finished
    damage(directory.finished)
    outcome = tiny.run(each, directory.store)
    assert not outcome.reused and outcome.description['resumed'] == 0
    tiny.assert_same_training(directory, undisturbed('classify')[2])
    aside = directory.finished.with_name(directory.finished.name + '.broken')
    said = capsys.readouterr().out
    assert aside.is_dir() and 'damaged' in said and f'set aside as {aside}' in said


def test_what_the_system_refuses_is_no_damage(finished, monkeypatch):
    """Too many open files: the stage stays where it is, and the error is told."""
    each, directory = finished
    refusal = OSError(errno.EMFILE, 'Too many open files')

    def refuse(*unused):
        raise refusal

    with monkeypatch.context() as patch, pytest.raises(OSError, match='Too many open files'):
        patch.setattr(bundle, 'read_arrays', refuse)
        tiny.run(each, directory.store, around=tiny.no_training)
    assert tiny.run(each, directory.store, around=tiny.no_training).reused


def remember_more(monkeypatch):
    """From now on the task's `extra` has one array more, as after a change of its code."""
    init = base.Readout.init

    def init_with_counter(self, key, encoder, parts):
        params, batch_stats, extra = init(self, key, encoder, parts)
        return params, batch_stats, extra | {'counter': jnp.zeros((), jnp.int32)}

    monkeypatch.setattr(base.Readout, 'init', init_with_counter)
    monkeypatch.setattr(tiny, '_built', {})


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_finished_stage_opens_after_the_training_state_changed(finished, monkeypatch):
    """Whether its checkpoints, which are of the old state, are still there or not."""
    each, directory = finished
    remember_more(monkeypatch)
    for _ in range(2):
        assert tiny.run(each, directory.store, around=tiny.no_training).reused
        shutil.rmtree(directory.finished / 'checkpoints', ignore_errors=True)


def test_an_unfinished_stage_of_another_training_state_is_refused(
    undisturbed, tmp_path, monkeypatch
):
    """It is neither set aside nor trained anew: the version that began it can go on with it."""
    each, _, other = undisturbed('classify')
    with pytest.raises(Interrupted):
        tiny.run(each, tmp_path, around=tiny.sigterm_at(5))
    directory = StageDirectory(tmp_path, each.name, each.key)
    before = contents(directory.partial / 'checkpoints')
    with monkeypatch.context() as patch:
        remember_more(patch)
        with pytest.raises(UserError, match='extra/counter: it has nothing') as error:
            tiny.run(each, tmp_path, around=tiny.no_training)
    assert not isinstance(error.value, Damaged)
    assert str(directory.partial) in str(error.value)
    assert contents(directory.partial / 'checkpoints') == before
    assert not directory.finished.exists()
    tiny.run(each, tmp_path)
    tiny.assert_same_training(directory, other)


def test_a_bundle_of_another_format_is_refused(finished):
    each, directory = finished
    path = directory.finished / 'bundle.json'
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {'format': told['format'] + 1}))
    before = contents(directory.store)
    with pytest.raises(UserError, match=f'format {told["format"] + 1}') as error:
        tiny.run(each, directory.store, around=tiny.no_training)
    assert not isinstance(error.value, Damaged) and str(path) in str(error.value)
    assert contents(directory.store) == before


def test_a_finished_stage_is_a_bundle_and_its_log(undisturbed, tmp_path):
    """The checkpoints go unless they are to be kept; the result is the same."""
    each, expected, kept = undisturbed('classify')
    steps = sorted(path.name for path in (kept.finished / 'checkpoints').iterdir())
    assert steps == ['4', '8'] and expected.description['keep'] == 'all'
    outcome = tiny.run(each, tmp_path, keep='bundle')
    names = sorted(path.name for path in outcome.folder.iterdir())
    assert names == [
        'bundle.json', 'encoder.safetensors', 'head.safetensors', 'metrics.jsonl',
        'sessions.json', 'tensorboard',
    ]  # fmt: skip
    assert outcome.description['params_sha256'] == expected.description['params_sha256']
    again = tiny.run(each, tmp_path, around=tiny.no_training, keep='all')
    assert again.reused and again.description == outcome.description


def test_a_stage_that_another_process_trains(undisturbed, tmp_path):
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
            tiny.run(each, tmp_path, around=tiny.no_training)
    finally:
        other.kill()
        other.communicate()
    assert not directory.partial.exists()
    with directory.claim().held():
        pass


def test_a_stage_that_another_process_has_just_finished(undisturbed, tmp_path, monkeypatch):
    """Between the look into the store and the lock, the other one gives it its final name."""
    each, expected, source = undisturbed('classify')
    directory = StageDirectory(tmp_path, each.name, each.key)

    claim = StageDirectory.claim

    def finish_elsewhere(self):
        shutil.copytree(source.finished, directory.finished)
        return claim(self)

    monkeypatch.setattr(StageDirectory, 'claim', finish_elsewhere)
    outcome = tiny.run(each, tmp_path, around=tiny.no_training)
    assert outcome.reused and outcome.description == expected.description
    assert not directory.partial.exists()


@pytest.mark.filterwarnings('ignore:overflow encountered')
@pytest.mark.parametrize('every', [1, 4])
def test_a_rate_that_diverges(every, tiny_data, tmp_path):
    """From step 5 on the rate is infinite: that step's loss is finite still, its weights are not.

    With a save after step 5 the weights tell, otherwise the loss of step 6.
    """
    optimizer = 'stage.classify.optimizer'
    diverging = {
        f'{optimizer}.schedule': 'step', f'{optimizer}.milestones': (0.5,),
        f'{optimizer}.step_factor': 1e39, f'{optimizer}.warmup_epochs': 0.0,
        'stage.classify.checkpoint_epochs': every / 4,
    }  # fmt: skip
    each = tiny.make_stages(tiny_data, 'scratch', **diverging)['classify']
    with pytest.raises(loop.NotFinite) as error:
        tiny.run(each, tmp_path)
    message = str(error.value)
    assert isinstance(error.value, UserError) and 'stage classify' in message
    assert f'at step {5 if every == 1 else 6}:' in message
    rate = each.optimizer.lr
    assert f'--config.stage.classify.optimizer.lr={rate / 3:.2g}' in message
    directory = StageDirectory(tmp_path, each.name, each.key)
    assert not directory.finished.exists()
    saved = directory.partial / 'checkpoints'
    assert str(saved) in message
    assert sorted(path.name for path in saved.iterdir()) == (['3', '4'] if every == 1 else ['4'])
    state = tiny.saved(directory.partial, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    rows = tiny.curve(directory.partial / 'metrics.jsonl')
    # The last losses before it are what tells why.
    assert [row['step'] for row in rows] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row['loss']) for row in rows)


def first_state(each, store, parent, monkeypatch):
    """The TrainState with which run_stage begins to train."""

    class Seen(Exception):
        pass

    def look(self, state, until):
        raise Seen(jax.device_get(state))

    with monkeypatch.context() as patch, pytest.raises(Seen) as seen:
        patch.setattr(loop._Loop, 'run', look)
        tiny.run(each, store, parent)
    return seen.value.args[0]


def test_a_stage_starts_from_the_encoder_that_was_left(
    tiny_data, undisturbed, tmp_path, monkeypatch
):
    """Exactly, with a head, optimiser and MoCo teacher of its own, for every next task."""
    _, outcome, _ = undisturbed('rot')
    left, head = outcome.parts['encoder'], outcome.parts['head']['params']
    for tasks in ('rot_moco', 'rot', 'rot_rot'):
        each = list(tiny.make_stages(tiny_data, tasks).values())[1]
        state = first_state(each, tmp_path, outcome.parts, monkeypatch)
        assert state.step == 0
        assert trees.sha256(state.params['encoder']) == trees.sha256(left['params'])
        assert trees.sha256(state.batch_stats['encoder']) == trees.sha256(left['batch_stats'])
        if each.kind != 'moco':
            # As many outputs as rot's own head, and yet another one, of rot's second stage too.
            assert trees.leaf_table(state.params['head']) == trees.leaf_table(head)
            assert trees.sha256(state.params['head']) != trees.sha256(head)
        else:
            assert trees.sha256(state.extra['teacher']) == trees.sha256(state.params)
            assert trees.sha256(state.extra['teacher_stats']) == trees.sha256(left['batch_stats'])
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_an_encoder_that_does_not_fit_is_refused(tiny_data, undisturbed, tmp_path, monkeypatch):
    """The next stage never starts from a fresh encoder, or from a part of one."""
    _, outcome, _ = undisturbed('rot')
    encoder = dict(outcome.parts['encoder'], params=dict(outcome.parts['encoder']['params']))
    name, value = encoder['params'].popitem()
    encoder['params']['other'] = value
    other = tiny.stage.Outcome(**{**vars(outcome), 'parts': {'encoder': encoder}})
    monkeypatch.setattr(curriculum, 'run_stage', lambda *unused: other)
    with tiny.compiled_once(), pytest.raises(UserError, match='encoder of stage rot') as error:
        curriculum.run(tiny.make_plan(tiny_data, 'rot'), tmp_path)
    assert f'  params/{name}/' in str(error.value) and '  params/other/' in str(error.value)


def test_curricula_share_their_common_stages(tiny_data, undisturbed):
    each, expected, directory = undisturbed('moco')
    for tasks in ('moco_rot', 'moco_swav'):
        stages = tiny.make_stages(tiny_data, tasks)
        assert stages['moco'].key == each.key
        outcome = tiny.run(stages['moco'], directory.store, around=tiny.no_training)
        assert outcome.reused
        assert outcome.description['params_sha256'] == expected.description['params_sha256']
