"""Checkpoints: what is saved is restored; damage, another version and the system are told apart."""

import contextlib
import errno
import logging
import os
import pathlib
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from cxr_jax.store import checkpoint
from cxr_jax.store.checkpoint import Checkpoints, saved_steps
from cxr_jax.store.files import Damaged
from data_pipelines.errors import UserError
from tests.damage import change_one_bit, largest_file, truncate, write_zeros

BROKEN = 'ignore::pytest.PytestUnraisableExceptionWarning'  # orbax's threads


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    extra: dict


@flax.struct.dataclass
class LaterState(State):
    """As a later version has it: a field without arrays changes nothing."""

    ema: dict


def make(step=8):
    # Too random to be compressed: a flipped bit is another number.
    weights = np.random.default_rng(step).normal(size=(100, 7)).astype(np.float32)
    params = {'encoder': {'kernel': jnp.asarray(weights), 'half': jnp.ones(3, jnp.bfloat16)}}
    moments = optax.chain(optax.trace(0.9), optax.scale_by_adam()).init(params)
    return State(jnp.asarray(step), params, moments, {'queue': jnp.ones(4), 'no': {}})


LIKE = jax.eval_shape(make)


@pytest.fixture(scope='session')
def saved(tmp_path_factory):
    """A stage's folder with the checkpoints 4 and 8."""
    folder = tmp_path_factory.mktemp('saved')
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        for step in (2, 4, 8):
            checkpoints.save(make(step))
    return folder


@pytest.fixture
def stage(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / 'moco-0123456789abcdef.partial')


def restore(folder, like=LIKE):
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(like)


def names_in(folder):
    return sorted(path.name for path in (folder / 'checkpoints').iterdir())


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, np.ndarray) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_newest_comes_back(stage, tmp_path):
    assert names_in(stage) == ['4', '8']
    assert_same(restore(stage), make(8))
    assert restore(tmp_path) is None


def test_what_a_step_tells(stage):
    """Names, shapes and dtypes without orbax, in one file with a seal of its own."""
    about = checkpoint.read_about(stage / 'checkpoints' / '8')
    assert about['step'] == 8
    assert about['arrays']['params/encoder/half'] == [[3], 'bfloat16']
    assert about['arrays']['opt_state/1/count'] == [[], 'int32']
    assert len(about['arrays']) == len(jax.tree.leaves(LIKE))


def test_a_step_that_is_there_is_not_written_again(stage):
    before = (stage / 'checkpoints' / '8').stat().st_mtime_ns
    with contextlib.closing(Checkpoints(stage)) as checkpoints:
        checkpoints.save(make(8), wait=True)
        assert (stage / 'checkpoints' / '8').stat().st_mtime_ns == before
        checkpoints.save(make(9))
        checkpoints.save(make(9), wait=True)
    assert names_in(stage) == ['8', '9']
    assert_same(restore(stage), make(9))


def about(change):
    path = pathlib.Path(checkpoint.ABOUT, checkpoint.ABOUT_FILE)
    return lambda folder: change(folder / path)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def other_dtype(path):
    path.write_text(path.read_text().replace('bfloat16', 'float16'))


DAMAGES = {
    'an array cut': truncate,
    'a bit': change_one_bit,
    'zeros': write_zeros,
    'no arrays': lambda folder: shutil.rmtree(folder / checkpoint.ARRAYS),
    'a file missing': lambda folder: largest_file(folder).unlink(),
    'no description': lambda folder: shutil.rmtree(folder / checkpoint.ABOUT),
    'description cut': about(cut),
    'description empty': about(lambda path: path.write_bytes(b'')),
    'description changed': about(other_dtype),
    'nothing at all': lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.filterwarnings(BROKEN)
@pytest.mark.parametrize('name', DAMAGES)
def test_a_damaged_one_is_set_aside(name, stage, caplog):
    DAMAGES[name](stage / 'checkpoints' / '8')
    with caplog.at_level(logging.WARNING):
        assert_same(restore(stage), make(4))
    assert '8 is set aside' in caplog.text
    assert names_in(stage) == ['4', '8.broken']


@pytest.mark.filterwarnings(BROKEN)
def test_nothing_set_aside_is_deleted(stage):
    """The step is trained again, and damaged again; then nothing is left to start from."""
    for number in range(2):
        (stage / 'checkpoints' / '8' / 'number').write_text(str(number))
        write_zeros(stage / 'checkpoints' / '8')
        with contextlib.closing(Checkpoints(stage)) as checkpoints:
            assert int(checkpoints.restore(LIKE).step) == 4
            checkpoints.save(make(8), wait=True)
    assert names_in(stage) == ['4', '8', '8.broken', '8.broken.2']
    for number, name in enumerate(('8.broken', '8.broken.2')):
        assert (stage / 'checkpoints' / name / 'number').read_text() == str(number)
    for step in ('4', '8'):
        write_zeros(stage / 'checkpoints' / step)
    assert restore(stage) is None


def test_another_state_is_refused_and_left_alone(stage):
    """A field more, one less, another shape, another dtype: no damage, and nothing is lost."""
    queue, seen = jax.ShapeDtypeStruct((5,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    like = LIKE.replace(
        extra={'queue': queue, 'seen': seen},
        params={'encoder': {'kernel': jax.ShapeDtypeStruct((100, 7), jnp.bfloat16)}},
    )
    with pytest.raises(UserError, match='4 differ') as error:
        restore(stage, like)
    assert not isinstance(error.value, Damaged)
    text, *differences = str(error.value).splitlines()
    assert str(stage / 'checkpoints' / '8') in text and f'delete {stage},' in text
    assert differences == [
        '  extra/queue: it has [4] float32, this version [5] float32',
        '  extra/seen: it has nothing, this version [] int32',
        '  params/encoder/half: it has [3] bfloat16, this version nothing',
        '  params/encoder/kernel: it has [100, 7] float32, this version [100, 7] bfloat16',
    ]
    assert names_in(stage) == ['4', '8']


def test_places_without_arrays_are_no_difference(stage):
    like = LaterState(**{k: getattr(LIKE, k) for k in State.__dataclass_fields__}, ema={})
    like = like.replace(extra={'queue': like.extra['queue']})
    found = restore(stage, like)
    assert found.ema == {} and found.extra.keys() == {'queue'}
    assert_same(found.params, make(8).params)


def test_another_format_is_refused_and_left_alone(stage):
    path = stage / 'checkpoints' / '8' / checkpoint.ABOUT / checkpoint.ABOUT_FILE
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match='format 2.*reads format 1') as error:
        restore(stage)
    assert not isinstance(error.value, Damaged)
    assert names_in(stage) == ['4', '8']


def raising(error):
    def fail(*unused, **names):
        raise error

    return fail


SYSTEM = {
    'of Python': (OSError(errno.EIO, 'Input/output error'), OSError),
    'of a network': (OSError(errno.ESTALE, 'Stale file handle'), OSError),
    'of memory': (MemoryError(), MemoryError),
    # tensorstore's texts, old and new
    'within a text': (ValueError('UNKNOWN: Failed [OS error 24: EMFILE Too many]'), OSError),
    'as a code': (ValueError("UNAVAILABLE: Failed to read [os_error_code='5']."), OSError),
}


@pytest.mark.parametrize('name', SYSTEM)
def test_what_the_system_says_is_no_damage(name, stage, monkeypatch):
    error, kind = SYSTEM[name]
    monkeypatch.setattr(ocp.StandardCheckpointer, 'restore', raising(error))
    with pytest.raises(kind):
        restore(stage)
    assert names_in(stage) == ['4', '8']


def test_an_error_without_words_is_looked_into(stage, monkeypatch):
    """Orbax says nothing of use, and a file cannot be read: the system is at fault."""
    read = pathlib.Path.read_bytes

    def fail(path):
        if path.name == '_METADATA':
            raise OSError(errno.EIO, 'Input/output error')
        return read(path)

    monkeypatch.setattr(ocp.StandardCheckpointer, 'restore', raising(ValueError('what')))
    with monkeypatch.context() as patch, pytest.raises(OSError, match='Input'):
        patch.setattr(pathlib.Path, 'read_bytes', fail)
        restore(stage)
    assert names_in(stage) == ['4', '8']


def test_the_description_too(stage, monkeypatch):
    monkeypatch.setattr(pathlib.Path, 'read_bytes', raising(OSError(errno.EACCES, 'Denied')))
    with pytest.raises(OSError, match='Denied'):
        restore(stage)
    assert names_in(stage) == ['4', '8']


def fails_at(function, part):
    def change(source, *rest, **names):
        if part in os.fspath(source):
            raise OSError(errno.ENOSPC, 'No space left on device')
        return function(source, *rest, **names)

    return change


@pytest.mark.filterwarnings(BROKEN)
@pytest.mark.parametrize('when', ['at the start', 'at the end'])
def test_a_failed_save_is_never_the_newest(when, stage, monkeypatch):
    """Nor does it cost an older one, nor keep the same manager from saving that step later."""
    with contextlib.closing(Checkpoints(stage)) as checkpoints:
        with monkeypatch.context() as patch, pytest.raises(Exception, match='No space'):
            if when == 'at the start':
                patch.setattr(os, 'mkdir', fails_at(os.mkdir, 'orbax-checkpoint-tmp'))
            else:
                patch.setattr(os, 'rename', fails_at(os.rename, 'orbax-checkpoint-tmp'))
            checkpoints.save(make(9), wait=True)
        assert saved_steps(stage / 'checkpoints') == [4, 8]
        assert int(checkpoints.restore(LIKE).step) == 8
        checkpoints.save(make(9), wait=True)
        assert int(checkpoints.restore(LIKE).step) == 9
    assert names_in(stage) == ['8', '9']


@pytest.mark.filterwarnings(BROKEN)
def test_a_save_that_fails_in_the_background_is_told_by_the_next(stage, monkeypatch):
    with contextlib.closing(Checkpoints(stage)) as checkpoints:
        with monkeypatch.context() as patch, pytest.raises(Exception, match='No space'):
            patch.setattr(os, 'rename', fails_at(os.rename, 'orbax-checkpoint-tmp'))
            checkpoints.save(make(9))
            checkpoints.save(make(10))
        assert saved_steps(stage / 'checkpoints') == [4, 8]
        checkpoints.save(make(10), wait=True)
    assert saved_steps(stage / 'checkpoints') == [8, 10]


def test_what_a_killed_save_left_is_cleared(stage):
    half = stage / 'checkpoints' / '9.orbax-checkpoint-tmp'
    shutil.copytree(stage / 'checkpoints' / '8', half)
    shutil.copytree(half, half.with_name('9.orbax-checkpoint-tmp-1'))
    assert_same(restore(stage), make(8))
    assert names_in(stage) == ['4', '8']
