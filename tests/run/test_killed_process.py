"""A command killed, told to stop, and stopped between stages ends as if nothing had happened."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cxr_jax.run import curriculum
from cxr_jax.store.stages import StageDirectory
from data_pipelines.errors import UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
EACH_STEP = {'stage.rot.checkpoint_epochs': 0.25}  # so that it is nearly always saving


def start(data, workdir, folder):
    """The command in a process of its own, on one device; what it says goes to a file."""
    overrides = tiny.settings('rot') | EACH_STEP | {'data.dir': data.directory.parents[1]}
    environment = tiny.environment(1, **tiny.keeping_compiled(folder / 'compiled'))
    command = [
        sys.executable, '-m', 'cxr_jax.main', f'--workdir={workdir}',
        '--config=configs/curriculum.py:rot,preset=demo',
        *(f'--config.{name}={value}' for name, value in overrides.items()),
    ]  # fmt: skip
    with open(folder / 'said', 'w') as said:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )


def wait_until(condition, process, said):
    while not condition():
        assert process.poll() is None, said.read_text()
        time.sleep(0.002)


@pytest.fixture(scope='module')
def disturbed(tiny_data, undisturbed, tmp_path_factory):
    """(workdir, exit code, what was said) after SIGKILL during a save, then SIGTERM."""
    folder = tmp_path_factory.mktemp('killed')
    workdir, said = folder / 'run', folder / 'said'
    each, _, _ = undisturbed('rot')
    partial = StageDirectory(folder / 'stages', 'rot', each.key).partial
    saved = partial / 'checkpoints'

    process = start(tiny_data, workdir, folder)
    wait_until(
        lambda: (saved / '2').is_dir() and any(saved.glob('*.orbax-checkpoint-tmp*')), process, said
    )
    process.kill()
    assert process.wait() == -signal.SIGKILL

    before = set(partial.glob('tensorboard/*'))
    process = start(tiny_data, workdir, folder)
    wait_until(lambda: set(partial.glob('tensorboard/*')) - before, process, said)
    time.sleep(0.5)  # its first step is not ready so soon
    process.terminate()
    return workdir, process.wait(), said.read_text()


def test_sigterm_saves_and_exits_with_75(disturbed, undisturbed):
    workdir, code, said = disturbed
    each, _, _ = undisturbed('rot')
    assert code == 75
    sentence = said.strip().splitlines()[-1]
    assert sentence.endswith('start the same command again to go on.')
    step = sentence.removeprefix('stage rot stopped and saved at step ').split()[0]
    partial = StageDirectory(workdir.parent / 'stages', 'rot', each.key).partial
    assert 3 <= int(step) < tiny.STEPS
    assert (partial / 'checkpoints' / step / 'default').is_dir()
    assert [row['step'] for row in tiny.curve(partial / 'metrics.jsonl')] == list(
        range(1, int(step) + 1)
    )


@pytest.fixture(scope='module')
def completed(disturbed, tiny_data):
    """(config, workdir, results) after one more stop, between the stages, and the end."""
    workdir, _, _ = disturbed
    config = tiny.make_config(tiny_data, 'rot', **EACH_STEP)

    class Stop(Exception):
        pass

    def stop(outcome):
        assert outcome.manifest['task'] == 'rot' and outcome.manifest['resumed'] == 2
        raise Stop

    with tiny.compiled_once(), pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(curriculum, 'announce_stage', stop)
        curriculum.run(config, workdir)
    with tiny.compiled_once():
        return config, workdir, curriculum.run(config, workdir)


def test_the_end_is_that_of_an_undisturbed_run(completed, tiny_data, undisturbed, tmp_path):
    """Also of the second stage, which started from a backbone out of the store."""
    _, workdir, results = completed
    assert [row['reused'] for row in results['stages']] == [True, False]
    assert [row['resumed'] for row in results['stages']] == [2, 0]
    rot, first, directory = undisturbed('rot')
    classify = tiny.make_stages(tiny_data, 'rot')['classify']
    second = tiny.run(classify, tiny_data, tmp_path, first.backbone())
    assert results['params_sha256'] == second.manifest['sha256']
    store = workdir.parent / 'stages'
    for each, other in (
        (rot, directory),
        (classify, StageDirectory(tmp_path, classify.name, classify.key)),
    ):
        tiny.assert_same_training(StageDirectory(store, each.name, each.key), other)


def test_a_finished_run_is_shown_not_repeated(completed, monkeypatch):
    config, workdir, results = completed
    monkeypatch.setattr(curriculum, 'run_stage', None)
    shown = curriculum.run(config, workdir)
    assert shown == json.loads((workdir / 'results.json').read_text())
    assert shown['params_sha256'] == results['params_sha256']


def test_a_workdir_of_another_run_is_refused(completed, tiny_data, monkeypatch):
    """With every difference named, and nothing written."""
    _, workdir, _ = completed
    monkeypatch.setattr(curriculum, 'run_stage', None)
    before = {path: path.read_bytes() for path in workdir.iterdir()}
    other = {'seed': 7, 'stage.rot.optimizer.lr': 0.0123}
    config = tiny.make_config(tiny_data, 'rot', **EACH_STEP | other)
    with pytest.raises(UserError) as error:
        curriculum.run(config, workdir)
    named = [line.strip() for line in str(error.value).splitlines()[1:]]
    rate = tiny.make_config(tiny_data, 'rot').stage.rot.optimizer.lr
    assert named == ['config.seed: 0, 7', f'config.stage.rot.optimizer.lr: {rate}, 0.0123']

    changed = dataclasses.replace(tiny_data, fingerprint='0' * 64)
    monkeypatch.setattr(curriculum, 'open_prepared', lambda *names: changed)
    with pytest.raises(UserError, match=f"data: '{tiny_data.fingerprint}', '0000"):
        curriculum.run(tiny.make_config(tiny_data, 'rot', **EACH_STEP), workdir)
    assert {path: path.read_bytes() for path in workdir.iterdir()} == before
