"""What was written is read, and what was not is told apart: damage, another version, the system."""

import errno
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from cxr_jax.store import arrays, bundle
from cxr_jax.store.bundle import fit, read_description, read_parts, read_tables, write_bundle
from cxr_jax.store.files import Damaged
from data_pipelines.errors import UserError

DESCRIPTION = {'task': 'moco', 'metrics': {'loss': 0.1}, 'shape': (2, 3), 'per_epoch': {1: 0.5}}


def make_parts():
    random = np.random.default_rng(0)
    return {
        'encoder': {
            'params': {
                'conv1': {'kernel': jnp.asarray(random.normal(size=(3, 3, 1, 4)), jnp.float32)},
                'scales': {'half': random.normal(size=5).astype(ml_dtypes.bfloat16)},
                'double': random.normal(size=(2, 1)),
            },
            'batch_stats': {'bn1': {'mean': np.zeros(4, np.float32), 'count': np.int32(7)}},
        },
        'head': {
            'params': {
                # Not as it lies in memory: NumPy's transpose is a view.
                'kernel': np.arange(6, dtype=np.float16).reshape(2, 3).T,
                'bytes': np.arange(3, dtype=np.uint8),
                'long': np.array([-(2**62)]),
                'none': np.zeros((0, 3), np.float32),
                'said': np.array([True, False]),
            },
            'batch_stats': {},
        },
    }


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'moco-0123456789abcdef'
    path.mkdir()
    write_bundle(path, make_parts(), DESCRIPTION)
    return path


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, np.ndarray)
        other = np.asarray(other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.tobytes() == other.tobytes()


def test_every_array_comes_back(folder):
    parts = read_parts(folder)
    assert_same_bits(parts, make_parts())
    assert_same_bits(read_parts(folder, ('head',)), {'head': make_parts()['head']})
    # Another reader of the format finds the same.
    other = load_file(folder / 'head.safetensors')
    np.testing.assert_array_equal(other['params/kernel'], [[0, 3], [1, 4], [2, 5]])
    assert sorted(path.name for path in folder.iterdir()) == [
        'bundle.json', 'encoder.safetensors', 'head.safetensors',
    ]  # fmt: skip


def test_the_description(folder, tmp_path):
    found = read_description(folder)
    assert found['task'] == 'moco' and found['metrics'] == {'loss': 0.1}
    assert found['shape'] == [2, 3] and found['per_epoch'] == {'1': 0.5}
    assert found['parts']['encoder']['arrays'] == 5
    assert found['parts']['encoder']['bytes'] == 4 * 36 + 2 * 5 + 8 * 2 + 4 * 4 + 4
    assert write_bundle(tmp_path, make_parts(), DESCRIPTION) == found
    for wrong in ({'sha256': ''}, {'format': 2}, {'parts': {}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            write_bundle(tmp_path, {}, wrong)
    with pytest.raises(ValueError, match='parts'):
        write_bundle(tmp_path, {'../encoder': make_parts()['head']}, {})


def test_the_tables(folder):
    tables = read_tables(folder)
    assert tables['encoder']['params/conv1/kernel'] == arrays.Leaf((3, 3, 1, 4), 'float32')
    assert tables['encoder']['params/scales/half'] == arrays.Leaf((5,), 'bfloat16')
    assert tables['encoder']['params/scales/half'].nbytes == 10
    assert tables['head']['params/none'].size == 0
    assert [len(tables[part]) for part in ('encoder', 'head')] == [5, 5]


def test_another_hash_for_every_difference():
    """Value, shape, dtype, name: each is in it; where a part lies in memory is not."""
    part = {'params': {'a': np.arange(6, dtype=np.float32)}, 'batch_stats': {}}
    own = bundle.part_sha256(part)
    others = [
        {'params': {'a': np.arange(6, dtype=np.float32) * [1, 1, 1, 1, 1, -1]}},
        {'params': {'a': np.arange(6, dtype=np.float32).reshape(2, 3)}},
        {'params': {'a': np.arange(6, dtype=np.float32).view(np.int32)}},
        {'params': {'b': np.arange(6, dtype=np.float32)}},
        {'params': {}, 'batch_stats': {'a': np.arange(6, dtype=np.float32)}},
    ]
    found = {bundle.part_sha256({'batch_stats': {}} | other) for other in others}
    assert len(found) == 5 and own not in found
    assert bundle.part_sha256(jax.tree.map(jnp.asarray, part)) == own


def flip(offset):
    def change(path):
        content = bytearray(path.read_bytes())
        content[offset if offset >= 0 else len(content) + offset] ^= 4
        path.write_bytes(content)

    return change


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(share):
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def longer(path):
    path.write_bytes(path.read_bytes() + b'\0')


def swap(path):
    """Another file of the right form."""
    arrays.write_arrays(path, {'params/a': np.zeros(3)})


@pytest.mark.parametrize('damage', [
    flip(0), flip(9), flip(60), flip(-1), flip(-100), zero, cut(0), cut(0.001), cut(0.5),
    cut(0.999), longer, swap, pathlib.Path.unlink,
])  # fmt: skip
def test_a_damaged_part(damage, folder):
    damage(folder / 'encoder.safetensors')
    with pytest.raises(Damaged, match='encoder.safetensors'):
        read_parts(folder)
    assert_same_bits(read_parts(folder, ('head',)), {'head': make_parts()['head']})


def test_every_flipped_byte_of_a_small_part_is_noticed(tmp_path):
    write_bundle(tmp_path, {'head': {'params': {'a': np.ones(2)}, 'batch_stats': {}}}, {})
    path = tmp_path / 'head.safetensors'
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content)
        flip(place)(path)
        with pytest.raises(Damaged):
            read_parts(tmp_path)


def test_every_damage_of_the_description(folder):
    """A figure, a hash or a name changed by hand or by a bit; never taken for what was written."""
    path = folder / 'bundle.json'
    content = path.read_bytes()
    for place in range(0, len(content) - 1, 3):
        path.write_bytes(content)
        flip(place)(path)
        changed = path.read_bytes()
        try:
            same = json.loads(changed) == json.loads(content)
        except ValueError:
            same = False
        if not same:  # not a tab for a space
            with pytest.raises(UserError):
                read_description(folder)
    for wrong in (b'', content[:-3], content[:50], b'[]', b'null', b'{}', b'\xff', b'[' * 100_000):
        path.write_bytes(wrong)
        with pytest.raises(Damaged):
            read_parts(folder)
    told = json.loads(content)
    told['metrics']['loss'] = -999
    path.write_text(json.dumps(told))
    with pytest.raises(Damaged, match='not what was written'):
        read_description(folder)


def test_another_version_is_no_damage(folder):
    """Whatever its seal; and a folder of the time before bundles."""
    told = json.loads((folder / 'bundle.json').read_text())
    (folder / 'bundle.json').write_text(json.dumps(told | {'format': 2}))
    with pytest.raises(UserError, match=f'{folder}.*format 2.*reads format 1') as error:
        read_parts(folder)
    assert not isinstance(error.value, Damaged)
    (folder / 'bundle.json').unlink()
    with pytest.raises(Damaged, match='no bundle.json'):
        read_description(folder)
    (folder / 'manifest.json').write_text('{}')
    with pytest.raises(UserError, match='earlier version') as error:
        read_description(folder)
    assert not isinstance(error.value, Damaged)


def test_mistakes_are_no_damage(folder):
    for read, words in (
        (lambda: read_parts(folder, ('encoder', 'teacher')), 'no part teacher; it has encoder, he'),
        (lambda: read_parts(folder / 'nowhere'), 'no folder'),
    ):
        with pytest.raises(UserError, match=words) as error:
            read()
        assert not isinstance(error.value, Damaged)


@pytest.mark.parametrize('number', [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize('name', ['bundle.json', 'encoder.safetensors'])
def test_what_the_system_says_is_no_damage(number, name, folder, monkeypatch):
    read = pathlib.Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
    with pytest.raises(OSError) as error:
        read_parts(folder)
    assert error.value.errno == number


def test_too_little_memory_is_no_damage(folder, monkeypatch):
    def full(content):
        raise MemoryError

    monkeypatch.setattr(arrays.safetensors, 'deserialize', full)
    with pytest.raises(MemoryError):
        read_parts(folder)


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    """A bundle that is written anew is the old or the new one, and no file is half one."""
    before = read_description(folder)
    write = pathlib.Path.write_bytes

    def full(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'write_bytes', full)
        with pytest.raises(OSError, match='No space'):
            write_bundle(folder, make_parts(), DESCRIPTION | {'task': 'rot'})
    assert read_description(folder) == before
    assert_same_bits(read_parts(folder), make_parts())
    assert len(list(folder.iterdir())) == 3


def test_a_dtype_that_the_file_cannot_hold(tmp_path):
    parts = {'head': {'params': {'a': np.zeros(2, np.complex128)}, 'batch_stats': {}}}
    with pytest.raises(TypeError, match='params/a is of complex128'):
        write_bundle(tmp_path, parts, {})
    assert not list(tmp_path.iterdir())


def test_fit_is_strict():
    part = make_parts()['encoder']
    with jax.enable_x64(True):
        like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, part))
    assert_same_bits(fit(jax.tree.map(np.asarray, part), like, 'encoder of A'), part)

    other = make_parts()['encoder']
    other['params']['conv1'] = {'weights': other['params']['conv1']['kernel']}
    other['params']['double'] = other['params']['double'].astype(np.float32)
    other['batch_stats']['bn1']['mean'] = np.zeros(5, np.float32)
    with pytest.raises(UserError, match='encoder of stage A .* 4 arrays differ') as error:
        fit(other, like, 'encoder of stage A')
    assert str(error.value).splitlines()[1:] == [
        '  batch_stats/bn1/mean: it has [5] float32, this model [4] float32',
        '  params/conv1/kernel: it has nothing, this model [3, 3, 1, 4] float32',
        '  params/conv1/weights: it has [3, 3, 1, 4] float32, this model nothing',
        '  params/double: it has [2, 1] float32, this model [2, 1] float64',
    ]


def test_fit_gives_the_structure_that_is_asked_for():
    """A sequence of layers, which a file knows by number; empty places."""
    like = {'params': {'layers': [np.zeros(1), {}, np.zeros(2)], 'none': {}}, 'batch_stats': {}}
    arrays_by_name = {'params': {'layers': {'0': np.ones(1), '2': np.ones(2)}}, 'batch_stats': {}}
    found = fit(arrays_by_name, like, 'head')
    assert jax.tree.structure(found) == jax.tree.structure(like)
    assert found['params']['layers'][2].tolist() == [1, 1]


def test_no_device_is_touched_and_nothing_written(folder):
    """Read where nothing may be written, on a machine whose platform does not exist."""
    script = (
        'import pathlib, sys; from cxr_jax.store import bundle; '
        'print(len(bundle.read_parts(pathlib.Path(sys.argv[1]))))'
    )
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, '-c', script, folder], capture_output=True, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'nosuchplatform'},
    )  # fmt: skip
    folder.chmod(0o755)
    assert done.stdout == '2\n', done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_copy_is_a_bundle_too(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'copy')
    assert_same_bits(read_parts(tmp_path / 'copy'), make_parts())


def test_a_head_that_promises_too_much(folder):
    """A length beyond the file, as a planted one has it, takes no memory."""
    path = folder / 'head.safetensors'
    path.write_bytes(struct.pack('<Q', 2**62) + path.read_bytes()[8:])
    for read in (read_parts, read_tables):
        with pytest.raises(Damaged):
            read(folder)
