"""The command line beyond its mistakes: exit codes, and the recipe when none is named."""

import errno
import signal

import pytest

from configs.curriculum import get_config
from cxr_jax import main, report
from cxr_jax.run import curriculum, embedded
from cxr_jax.runtime.interrupt import Interrupted
from tests.bare_sets import write_bare
from tests.run.conftest import Stop, stop
from tests.run.test_bad_input import CONFIG, DEMO, HERE, SIZE, assert_refused


@pytest.mark.parametrize(
    ('module', 'where'),
    [(main, 'make_plan'), (curriculum, 'initial_parts'), (curriculum, 'run_stage')],
)
def test_sigterm_outside_training_exits_with_75(module, where, command, tmp_path, monkeypatch):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    monkeypatch.setattr(module, where, lambda *unused: signal.raise_signal(signal.SIGTERM))
    outcome = command('--config', DEMO, HERE)
    assert outcome.code == 75 and 'start the same command again' in outcome.err


@pytest.mark.parametrize(
    ('error', 'code', 'words'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), 2, 'Free space and start again'),
        (PermissionError(errno.EACCES, 'Permission denied', 'store'), 2, 'store cannot be used'),
        (Interrupted('stage rot stopped'), 75, 'start the same command again'),
        (KeyboardInterrupt(), 75, 'start the same command again'),
    ],
)
def test_exit_codes(command, tmp_path, monkeypatch, error, code, words):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)

    def fail(*args):
        raise error

    monkeypatch.setattr(curriculum, 'run', fail)
    outcome = command('--config', DEMO, HERE)
    assert outcome.code == code and words in outcome.err


def test_a_defect_of_the_program_keeps_its_traceback(command, tmp_path, monkeypatch):
    write_bare(tmp_path / 'prepared', 'synthetic_cxr', SIZE)
    monkeypatch.setattr(curriculum, 'run', stop)
    with pytest.raises(Stop):
        command('--config', DEMO, HERE)


@pytest.fixture
def recipe(command, monkeypatch):
    """Runs the command line up to the curriculum: words -> config, banner, prepared data sets."""

    def run(*words):
        seen, prepared = [], []
        monkeypatch.setattr(main, 'open_sets', lambda config: {})
        monkeypatch.setattr(main, 'make_plan', lambda config, sets, devices: config)
        monkeypatch.setattr(curriculum, 'run', lambda *args: seen.append(args))
        monkeypatch.setattr(report, 'format_table', str)
        monkeypatch.setattr(embedded, 'prepare', lambda *args, **more: prepared.append(args))
        outcome = command('--config', f'{CONFIG}:rot', *words)
        assert outcome.code is None, outcome.err
        [(config, workdir, banner, _)] = seen
        assert banner in outcome.out
        return config, workdir, banner, prepared

    return run


def test_auto_without_data_is_the_demo_and_says_so(recipe):
    config, workdir, banner, prepared = recipe(
        '--config.seed=5', '--config.stage.rot.optimizer.milestones=(0.1, 0.2)',
        '--config.stage.rot.task.augment.flip=0.25', '--config.stage.rot.optimizer.nesterov',
    )  # fmt: skip
    demo = get_config('rot,preset=demo')
    demo.seed = 5
    demo.stage.rot.optimizer.milestones = (0.1, 0.2)
    demo.stage.rot.optimizer.nesterov = True
    demo.stage.rot.task.augment.flip = 0.25
    assert config.to_dict() == demo.to_dict() and config.is_locked
    assert 'no prepared SIIM data was found' in banner and str(workdir) == 'runs/rot-demo'
    assert prepared == [('synthetic_cxr', None, 'data', SIZE)]


@pytest.mark.parametrize('size', [256, 512])
def test_auto_with_prepared_siim_is_the_siim_study(recipe, tmp_path, size):
    """Whatever its size: one that the config does not ask for is an error that lists the sizes."""
    write_bare(tmp_path / 'data', 'siim_covid19', size)
    config, workdir, banner, prepared = recipe('--config.stage.rot.epochs=3')
    study = get_config('rot,preset=siim_study')
    study.stage.rot.epochs = 3
    assert config.to_dict() == study.to_dict()
    assert (banner, prepared, str(workdir)) == ('', [], 'runs/rot-siim_study')


def test_auto_with_named_data_is_the_siim_study(recipe):
    config, _, banner, prepared = recipe('--config.data.name=synthetic_cxr')
    assert config.preset == 'siim_study' and config.data.name == 'synthetic_cxr'
    assert 'phantom' in banner and 'Demo recipe' not in banner
    assert prepared == [('synthetic_cxr', None, 'data', 256)]
    config, _, banner, prepared = recipe('--config.data.dir=elsewhere')
    assert config.preset == 'siim_study' and (banner, prepared) == ('', [])
    config, *_ = recipe("--config.data.pretext=('mine',)")
    assert config.preset == 'siim_study' and config.data.pretext == ('mine',)


def test_auto_with_named_data_that_is_not_there_is_an_error(command):
    outcome = command('--config', f'{CONFIG}:rot', '--config.data.dir=mine')
    assert_refused(outcome, 'data_pipelines.prepare --dataset siim_covid19', '--data_dir mine')
