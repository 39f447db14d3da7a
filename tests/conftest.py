"""Eight fake CPU devices for every test; set before JAX starts."""

import os
import pathlib
import tempfile

import pytest

from tests import fake_devices

fake_devices.use()
# What compiles to the same is compiled once: by all processes of the tests and all that they start.
if not {'JAX_COMPILATION_CACHE_DIR', 'PYTEST_XDIST_WORKER'} & os.environ.keys():
    COMPILED = tempfile.TemporaryDirectory(prefix='compiled-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = COMPILED.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SHARED = pathlib.Path(os.environ.get('CXR_SHARED', pathlib.Path(__file__).parents[2] / 'shared'))


@pytest.fixture(scope='session')
def golden():
    """Loads one file of tests/golden as a dict of arrays."""
    import numpy as np

    return lambda name: dict(np.load(GOLDEN / f'{name}.npz'))


@pytest.fixture(scope='session')
def shared():
    """The folder of real samples; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f'needs the folder of real samples ({SHARED}); set CXR_SHARED')
    return SHARED


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """The prepared set of tests.tiny."""
    from data_pipelines.prepare import prepare
    from tests import tiny

    folder = tmp_path_factory.mktemp('tiny')
    return prepare('synthetic_cxr', None, folder, tiny.SIZE, images=tiny.IMAGES, processes=1)


@pytest.fixture(scope='session')
def undisturbed(tiny_data, tmp_path_factory):
    """Task -> (Stage, Outcome, StageDirectory) of its uninterrupted training, done once."""
    import functools

    from cxr_jax.store.stages import StageDirectory
    from tests import tiny

    @functools.cache
    def train(name):
        store = tmp_path_factory.mktemp(name)
        stage = tiny.make_stages(tiny_data, 'scratch' if name == 'classify' else name)[name]
        outcome = tiny.run(stage, store)
        assert not outcome.reused
        return stage, outcome, StageDirectory(store, name, stage.key)

    return train


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """name -> this process has the working copies of that machine, as all of them see memory://,
    fsspec's file system in memory, which is empty at first."""
    from fsspec.implementations.memory import MemoryFileSystem

    from data_pipelines.storage import places

    monkeypatch.setitem(places.BACKENDS, 'memory', 'fsspec')
    monkeypatch.setattr(MemoryFileSystem, 'store', {})
    monkeypatch.setattr(MemoryFileSystem, 'pseudo_dirs', [''])

    def become(name):
        monkeypatch.setenv('CXR_JAX_MIRROR', str(tmp_path / 'machines' / name))

    become('one')
    return become
