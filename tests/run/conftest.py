"""Sets to read from (see tests/small_sets.py), and the command line."""

import sys
from types import SimpleNamespace

import pytest
from absl.testing import flagsaver


class Stop(Exception):
    """Ends a run that has come far enough, past the handling of known errors."""


def stop(*args, **more):
    raise Stop


@pytest.fixture(scope='session')
def sets(tmp_path_factory):
    """{name: PreparedSet} of tests.small_sets, in one data folder."""
    from data_pipelines.prepared.data import open_prepared
    from tests import small_sets

    folder = small_sets.prepare_all(tmp_path_factory.mktemp('sets'))
    return {name: open_prepared(folder, name, small_sets.SIZE) for name in 'abcf'}


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command line in an empty folder: words -> code, out, err. Whatever trains is stopped."""
    from cxr_jax import main
    from cxr_jax.run import curriculum, embedded
    from cxr_jax.runtime import command_line

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curriculum, 'run_stage', stop)
    monkeypatch.setattr(embedded, 'prepare', stop)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['main.py', *map(str, words)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
            command_line.run(main.main, main.EXAMPLE, ('curriculum', 'readout', 'preset'))
        return SimpleNamespace(code=stopped.value.code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture(scope='session')
def exact(tiny_data, tmp_path_factory):
    """(case, devices) -> exactness.train on the first devices of this process, done once."""
    import functools

    import jax

    from cxr_jax.runtime import parallel
    from tests import exactness

    @functools.cache
    def train(case, devices):
        mesh = parallel.data_mesh(jax.devices()[:devices])
        stage = exactness.stage_of(tiny_data, case)
        return exactness.train(stage, mesh, tmp_path_factory.mktemp('exact'))

    return train
