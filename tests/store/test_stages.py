"""Stage directories: finished at once, pruned whatever kills the process, never deleted."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from cxr_jax.store import stages
from cxr_jax.store.files import Damaged, set_aside
from cxr_jax.store.stages import StageDirectory

PARTS = {'encoder': {'params': {'kernel': np.arange(6.0)}, 'batch_stats': {}}}
LARGE = ['checkpoints', 'trials/00-lr0.1/checkpoints', 'trials/together-2/checkpoints']
SMALL = [
    'metrics.jsonl', 'search.json', 'sessions.json', 'tensorboard/events',
    'trials/00-lr0.1/metrics.jsonl', 'trials/00-lr0.1/values.json',
]  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture
def directory(tmp_path):
    """A stage that has just been trained."""
    directory = StageDirectory(tmp_path, 'moco2', '0123456789abcdef')
    for name in LARGE:
        (directory.partial / name / '8' / 'default').mkdir(parents=True)
        (directory.partial / name / '8' / 'default' / 'array').write_bytes(bytes(1000))
        shutil.copytree(directory.partial / name / '8', directory.partial / name / '4.broken')
    for name in SMALL:
        (directory.partial / name).parent.mkdir(parents=True, exist_ok=True)
        (directory.partial / name).write_text(name)
    (directory.partial / '.search.json.0a1b2c3d.tmp').write_text('{"hal')
    shutil.copytree(directory.partial / 'checkpoints', directory.partial / 'checkpoints.taking')
    return directory


def files_of(directory):
    found = (path for path in directory.finished.rglob('*') if path.is_file())
    return sorted(str(path.relative_to(directory.finished)) for path in found)


def test_names(tmp_path):
    directory = StageDirectory(tmp_path, 'moco2', '0123456789abcdef')
    assert directory.finished == tmp_path / 'moco2-0123456789abcdef'
    assert directory.partial == tmp_path / 'moco2-0123456789abcdef.partial'
    assert directory.load() is None and directory.description() is None


def test_finished_it_is_a_bundle_and_its_small_files(directory):
    description = directory.finish(PARTS, {'task': 'moco'})
    assert not directory.partial.exists()
    assert files_of(directory) == sorted([*SMALL, 'bundle.json', 'encoder.safetensors'])
    assert description['keep'] == 'bundle' and description['task'] == 'moco'
    found, parts = directory.load(('encoder',))
    assert found == description == directory.description()
    np.testing.assert_array_equal(parts['encoder']['params']['kernel'], np.arange(6.0))


def test_what_is_to_be_kept_stays(directory):
    before = [path for path in directory.partial.rglob('*') if path.is_file()]
    directory.finish(PARTS, {}, keep='all')
    for _ in range(2):
        assert len(files_of(directory)) == len(before) + 2
        assert directory.load()[0]['keep'] == 'all'
    with pytest.raises(ValueError, match='keep'):
        directory.finish(PARTS, {}, keep='some')


def test_a_kill_between_rename_and_pruning_is_healed(directory, monkeypatch):
    def killed(*unused):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StageDirectory, '_prune', killed)
        directory.finish(PARTS, {})
    assert (directory.finished / 'checkpoints').is_dir()
    _, parts = directory.load()
    assert parts.keys() == {'encoder'}
    assert files_of(directory) == sorted([*SMALL, 'bundle.json', 'encoder.safetensors'])


def test_a_kill_while_pruning_is_healed(directory, monkeypatch):
    def killed(path):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stages.shutil, 'rmtree', killed)
        directory.finish(PARTS, {})
    directory.load()
    assert files_of(directory) == sorted([*SMALL, 'bundle.json', 'encoder.safetensors'])


@pytest.mark.parametrize('failing', ['encoder.safetensors', 'bundle.json', 'directory'])
def test_a_kill_before_the_rename_leaves_an_unfinished_stage(failing, directory, monkeypatch):
    """Of every file, and of the folder itself; to be finished by the next process."""
    replace, rename = os.replace, os.rename

    def killed_at(function):
        def change(source, target):
            if os.fspath(target).endswith(failing) or os.fspath(target) == str(directory.finished):
                raise Killed
            return function(source, target)

        return change

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, 'replace', killed_at(replace))
        patch.setattr(os, 'rename', killed_at(rename))
        directory.finish(PARTS, {})
    assert directory.load() is None
    assert (directory.partial / 'checkpoints' / '8').is_dir()
    directory.finish(PARTS, {})
    assert directory.load()[1].keys() == {'encoder'}


def test_a_store_that_may_only_be_read(directory, monkeypatch):
    """What cannot be pruned there does not keep it from being read."""
    with monkeypatch.context() as patch:
        patch.setattr(StageDirectory, '_prune', lambda *unused: None)
        directory.finish(PARTS, {})

    def read_only(*unused, **names):
        raise OSError(errno.EROFS, 'Read-only file system')

    for name in ('unlink', 'rmdir', 'mkdir', 'rename', 'replace'):
        monkeypatch.setattr(os, name, read_only)
    before = files_of(directory)
    assert directory.load()[1].keys() == {'encoder'}
    assert files_of(directory) == before


def test_nothing_damaged_is_ever_deleted(directory):
    directory.finish(PARTS, {})
    first = directory.finished / 'encoder.safetensors'
    first.write_bytes(b'1')
    with pytest.raises(Damaged):
        directory.load()
    names = []
    for number in range(3):
        (directory.finished / 'number').write_text(str(number))
        names.append(directory.discard().name)
        assert directory.load() is None
        directory.finished.mkdir()
    assert names == [f'{directory.finished.name}.broken{n}' for n in ('', '.2', '.3')]
    for number, name in enumerate(names):
        assert (directory.store / name / 'number').read_text() == str(number)


def test_set_aside_leaves_files_of_that_name_alone(tmp_path):
    (tmp_path / '8').mkdir()
    (tmp_path / '8.broken').write_text('mine')
    assert set_aside(tmp_path / '8') == tmp_path / '8.broken.2'
    assert (tmp_path / '8.broken').read_text() == 'mine'


def test_a_finished_stage_without_its_description_is_damaged(directory):
    directory.finish(PARTS, {})
    content = json.loads((directory.finished / 'bundle.json').read_text())
    (directory.finished / 'bundle.json').unlink()
    with pytest.raises(Damaged, match='bundle.json'):
        directory.load()
    del content['keep']  # as in a copy that somebody wrote: not pruned by mistake
    (directory.finished / 'bundle.json').write_text(json.dumps(content))
    with pytest.raises(Damaged, match='not what was written'):
        directory.load()


def test_a_folder_that_the_system_hides_is_not_absent(directory, monkeypatch):
    directory.finish(PARTS, {})
    stat = os.stat

    def stale(path, *rest, **names):
        if os.fspath(path) == str(directory.finished):
            raise OSError(errno.ESTALE, 'Stale file handle')
        return stat(path, *rest, **names)

    monkeypatch.setattr(os, 'stat', stale)
    with pytest.raises(OSError, match='Stale'):
        directory.load()
