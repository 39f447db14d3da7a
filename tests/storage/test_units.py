"""Folders that go up and down as a whole, whatever cuts a copy short."""

import contextlib
import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines.errors import UserError
from data_pipelines.storage import raw, units
from data_pipelines.storage.places import local

URL, MARKER = 'memory://bucket/sets/mine', 'card.json'
OLD = {'card.json': 'old', 'data/records': 'old records', 'data/index': 'same', 'gone': 'x'}
NEW = {'card.json': 'new', 'data/records': 'new records', 'data/index': 'same', 'more': ''}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder):
    """{path: text} of what is not hidden."""
    paths = [path for path in folder.rglob('*') if path.is_file()]
    return {str(p.relative_to(folder)): p.read_text() for p in paths if p.name[0] != '.'}


def replace(folder, files):
    for path in [path for path in folder.rglob('*') if path.is_file()]:
        path.unlink()
    write(folder, files)


def seen():
    """What a machine without a copy finds there; None: nothing."""
    folder = local(URL)
    return content(folder) if units.pull(folder, MARKER) else None


@contextlib.contextmanager
def calls(monkeypatch, names, fail_at=None):
    """Names of the calls that change memory://; number `fail_at` raises."""
    made = []
    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(MemoryFileSystem, name, counted(name, made, fail_at))
        yield made


def counted(name, made, fail_at):
    own = getattr(MemoryFileSystem, name)

    def call(self, *args, **more):
        made.append(name)
        if len(made) == fail_at:
            raise ConnectionError('the network is down')
        return own(self, *args, **more)

    return call


WRITES = ('put_file', 'pipe_file', 'rm_file')


def test_another_machine_gets_what_was_copied_up(machine):
    write(local(URL), OLD | {'.private': 'secret', 'masks/.x/y': 'secret', 'skipped/a': 'b'})
    units.push(local(URL), MARKER, skip=['skipped'])
    assert 'secret' not in {data.getvalue().decode() for data in MemoryFileSystem.store.values()}
    machine('two')
    assert seen() == OLD


@pytest.mark.parametrize('before', [{}, OLD])
def test_an_upload_cut_short_anywhere_shows_nothing_or_a_whole(machine, monkeypatch, before):
    """Of every number of calls after which the network fails; the next attempt heals it."""
    number, found = 0, []
    while True:
        number += 1
        MemoryFileSystem.store.clear()
        machine(f'writer {number}')
        if before:
            write(local(URL), before)
            units.push(local(URL), MARKER)
        replace(local(URL), NEW)
        with calls(monkeypatch, WRITES, fail_at=number) as made:
            try:
                units.push(local(URL), MARKER)
            except UserError as error:
                assert URL in str(error) and 'the network is down' in str(error)
        if len(made) < number:
            break
        assert content(local(URL)) == NEW and not units.is_settled(local(URL))
        machine(f'reader {number}')
        found.append(seen())
        machine(f'writer {number}')
        units.settle(local(URL), MARKER)
        machine(f'reader {number}')
        assert seen() == NEW
    assert all(each in (None, before, NEW) for each in found)
    # Five calls lie between: the marker gone or not there yet, and the rest not complete.
    assert found.count(None) >= 4 and NEW in found


def test_only_what_is_missing_is_brought(machine, monkeypatch):
    write(local(URL), OLD)
    units.push(local(URL), MARKER)
    machine('two')
    assert seen() == OLD
    machine('one')
    replace(local(URL), NEW)
    with calls(monkeypatch, ['put_file']) as sent:
        units.push(local(URL), MARKER)
        units.push(local(URL), MARKER)
        units.settle(local(URL), MARKER)
        assert len(sent) == len(NEW)
    machine('two')
    with calls(monkeypatch, ['get_file']) as got:
        assert seen() == NEW
        assert len(got) == 3  # all but data/index
        assert seen() == NEW
        assert len(got) == 3


def test_a_download_cut_short_goes_on(machine, monkeypatch):
    write(local(URL), OLD)
    units.push(local(URL), MARKER)
    machine('two')
    with calls(monkeypatch, ['get_file'], fail_at=2), pytest.raises(UserError, match='be read'):
        seen()
    assert not local(URL).exists()
    with calls(monkeypatch, ['get_file']) as got:
        assert seen() == OLD
    assert 0 < len(got) < len(OLD)


@pytest.mark.parametrize('damage', ['changed', 'missing', 'list', 'escaping'])
def test_damage_at_the_url_is_found(machine, tmp_path, damage):
    write(local(URL), OLD)
    units.push(local(URL), MARKER)
    machine('two')
    root = '/' + URL.partition('://')[2]
    fs = MemoryFileSystem()
    if damage == 'changed':
        fs.pipe_file(f'{root}/data/records', b'odd records')  # of the same size
    elif damage == 'missing':
        fs.rm_file(f'{root}/data/records')
    elif damage == 'list':
        fs.pipe_file(f'{root}/{units.LIST}', b'{"a": 1')
    else:
        outside = {'../../outside': [3, '']}
        fs.pipe_file(f'{root}/{units.LIST}', json.dumps(outside).encode())
    with pytest.raises(UserError, match='lies outside' if damage == 'escaping' else 'damaged'):
        seen()
    assert not local(URL).exists() and not list(tmp_path.rglob('outside'))
    if damage != 'escaping':
        write(local(URL), OLD)  # the same, made again
        units.settle(local(URL), MARKER)
        machine('three')
        assert seen() == OLD


def test_a_folder_copied_there_by_hand_counts_when_its_marker_is_there(machine):
    fs, root = MemoryFileSystem(), '/' + URL.partition('://')[2]
    for name in OLD.keys() - {MARKER}:
        fs.pipe_file(f'{root}/{name}', OLD[name].encode())
    assert seen() is None and units.find(local(URL).parent, f'*/{MARKER}') == set()
    fs.pipe_file(f'{root}/{MARKER}', OLD[MARKER].encode())
    assert seen() == OLD
    [found] = units.find(local(URL).parent, f'*/{MARKER}')
    assert str(found) == f'mine/{MARKER}'


def test_what_is_taken_away_there_is_gone_here_but_not_what_was_made_here(machine):
    write(local(URL), OLD)
    assert seen() == OLD  # nothing is there yet
    units.push(local(URL), MARKER)
    machine('two')
    assert seen() == OLD
    units.unsettle(local(URL))
    replace(local(URL), NEW)
    assert seen() == NEW  # not copied up
    assert units.pull(local(URL), MARKER, over=True) and content(local(URL)) == OLD
    machine('one')
    units.remove(local(URL))
    assert MemoryFileSystem.store == {}
    assert seen() is None and not local(URL).exists()


def test_folders_without_a_url_are_left_alone(machine, tmp_path):
    write(tmp_path / 'own', OLD)
    units.push(tmp_path / 'own', MARKER)
    assert not units.pull(tmp_path / 'own', MARKER) and units.is_settled(tmp_path / 'own')
    files = {str(path.relative_to(tmp_path / 'own')) for path in tmp_path.glob('own/**/*')}
    assert files == OLD.keys() | {'data'}
    assert MemoryFileSystem.store == {}


def test_of_two_texts_the_first_one_stays(machine):
    place = local('memory://bucket/.salt.sha256')
    assert units.agree(place, 'a') and units.agree(place, 'a') and not units.agree(place, 'b')


def test_raw_files_follow_those_at_the_url(machine, monkeypatch, capsys):
    fs, folder = MemoryFileSystem(), local('memory://bucket/raw')
    with pytest.raises(UserError, match='nothing at memory://bucket/raw'):
        raw.pull_files(folder)
    for name in ('a.png', 'b.png', 'deep/c.png'):
        fs.pipe_file(f'/bucket/raw/{name}', name.encode())
    folder.mkdir(parents=True)
    (folder / 'own.txt').write_text('made here')
    raw.pull_files(folder)
    assert '3 files' in capsys.readouterr().err
    assert content(folder) == {n: n for n in ('a.png', 'b.png', 'deep/c.png')} | {
        'own.txt': 'made here'
    }
    times = {path.name: path.stat().st_mtime_ns for path in folder.rglob('*.png')}
    fs.pipe_file('/bucket/raw/b.png', b'B.png')
    fs.rm_file('/bucket/raw/a.png')
    with calls(monkeypatch, ['get_file']) as got:
        raw.pull_files(folder)
    assert len(got) == 1 and (folder / 'b.png').read_text() == 'B.png'
    assert sorted(content(folder)) == ['b.png', 'deep/c.png', 'own.txt']
    machine('two')
    raw.pull_files(local('memory://bucket/raw'))
    there = local('memory://bucket/raw/deep/c.png')
    assert there.stat().st_mtime_ns == times['c.png']
    machine('three')
    alone = local('memory://bucket/raw/deep/c.png')
    raw.pull_files(alone)
    assert alone.read_text() == 'deep/c.png'
