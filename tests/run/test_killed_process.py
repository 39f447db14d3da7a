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
from cxr_jax.run.plan import make_plan
from cxr_jax.store.stages import StageDirectory
from data_pipelines.errors import UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
EACH_STEP = {'stage.rot.checkpoint_epochs': 0.25}  # so that it is nearly always saving


def start(data, workdir, folder):
    """The command in a process of its own, on one device; what it says goes to a file."""
    overrides = tiny.settings('rot') | EACH_STEP | {'data.dir': data.directory.parents[1]}
    environment = tiny.environment(1)
    command = [
        sys.executable, '-m', 'tests.program', 'cxr_jax.main', f'--workdir={workdir}',
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
    assert (partial / 'checkpoints' / step / 'arrays').is_dir()
    assert [row['step'] for row in tiny.curve(partial / 'metrics.jsonl')] == list(
        range(1, int(step) + 1)
    )


@pytest.fixture(scope='module')
def completed(disturbed, tiny_data):
    """(plan, workdir, results) after one more stop, between the stages, and the end."""
    workdir, _, _ = disturbed
    plan = tiny.make_plan(tiny_data, 'rot', **EACH_STEP)

    class Stop(Exception):
        pass

    def stop(outcome, fold):
        assert outcome.description['stage'] == 'rot' and outcome.description['resumed'] == 2
        raise Stop

    with tiny.compiled_once(), pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(curriculum, 'announce_stage', stop)
        curriculum.run(plan, workdir)
    with tiny.compiled_once():
        return plan, workdir, curriculum.run(plan, workdir)


def test_the_end_is_that_of_an_undisturbed_run(completed, tiny_data, undisturbed, tmp_path):
    """Also of the second stage, which started from an encoder out of the store."""
    _, workdir, results = completed
    assert [row['reused'] for row in results['stages']] == [True, False]
    assert [row['resumed'] for row in results['stages']] == [2, 0]
    rot, first, directory = undisturbed('rot')
    classify = tiny.make_stages(tiny_data, 'rot')['classify']
    second = tiny.run(classify, tmp_path, first.parts)
    assert results['params_sha256'] == [second.description['params_sha256']]
    store = workdir.parent / 'stages'
    for each, other in (
        (rot, directory),
        (classify, StageDirectory(tmp_path, classify.name, classify.key)),
    ):
        tiny.assert_same_training(StageDirectory(store, each.name, each.key), other)


def test_a_finished_run_is_shown_not_repeated(completed, monkeypatch):
    plan, workdir, results = completed
    monkeypatch.setattr(curriculum, 'run_stage', None)
    shown = curriculum.run(plan, workdir)
    assert shown == json.loads((workdir / 'results.json').read_text())
    assert shown['params_sha256'] == results['params_sha256']


def test_a_workdir_of_another_run_is_refused(completed, tiny_data, monkeypatch):
    """With every difference named, and nothing written."""
    plan, workdir, _ = completed
    monkeypatch.setattr(curriculum, 'run_stage', None)
    before = {path: path.read_bytes() for path in workdir.iterdir()}

    def differences(other):
        with pytest.raises(UserError) as error:
            curriculum.run(other, workdir)
        return [line.strip() for line in str(error.value).splitlines()[1:]]

    changes = {'seed': 7, 'stage.rot.optimizer.lr': 0.0123}
    rate = plan.settings.stages['rot'].optimizer.lr
    named = differences(tiny.make_plan(tiny_data, 'rot', **EACH_STEP | changes))
    assert named == ['seed: 0, 7', f'stage.rot.optimizer.lr: {rate}, 0.0123']

    content = tiny_data.index.content[::-1].copy()
    index = dataclasses.replace(tiny_data.index, content=content)
    other = dataclasses.replace(tiny_data, index=index, fingerprint='0' * 64)
    config = tiny.make_config(tiny_data, 'rot', **EACH_STEP)
    (named,) = differences(make_plan(config, {tiny_data.name: other}, 1))
    assert named == f"sets.{tiny_data.name}: '{tiny_data.fingerprint}', '{other.fingerprint}'"
    assert {path: path.read_bytes() for path in workdir.iterdir()} == before
