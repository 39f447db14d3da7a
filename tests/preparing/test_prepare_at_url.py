"""Preparing from a URL and to a URL: what another machine finds there."""

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.prepare import main, prepare
from data_pipelines.prepared import mask_store, masks
from data_pipelines.prepared.data import open_prepared
from data_pipelines.preparing.identity import SALT_FILE
from data_pipelines.storage import units
from data_pipelines.storage.places import local

SIZE, IMAGES = 24, 6
RAW, DATA = 'memory://bucket/raw', 'memory://bucket/prepared'
COMMAND = f'--dataset image_folder --source {RAW} --data_dir {DATA} --size {SIZE}'
COMMAND += ' --splits none --processes 1'


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE), np.uint8)


@pytest.fixture
def raw(machine, tmp_path):
    """Raw files at RAW; the working copies of machine `one`."""
    for number in range(IMAGES):
        path = tmp_path / f'{number}.png'
        Image.fromarray(pixels(number)).save(path)
        MemoryFileSystem().pipe_file(f'/bucket/raw/{number}.png', path.read_bytes())


def images(prepared):
    """The prepared images as a set of their bytes."""
    return {record['image'].tobytes() for record in prepared.read(range(IMAGES), ['image'])}


def no_decoding(monkeypatch):
    """Whatever would decode a raw file is an error."""
    monkeypatch.setattr('data_pipelines.prepare.decode', None)


def test_another_machine_opens_what_was_prepared_and_finds_it_up_to_date(
    raw, machine, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main(COMMAND.split()) == 0
    assert f'prepared: {DATA}/image_folder/{SIZE}px' in capsys.readouterr().out
    salt = (local(DATA) / SALT_FILE).read_bytes()
    # Neither the salt nor raw names (but where they were before) leave the machine.
    there = {name: file.getvalue() for name, file in MemoryFileSystem.store.items()}
    assert not any(salt in data for data in there.values())
    hidden = [name for name in there if any(part[0] == '.' for part in name.split('/')[1:])]
    assert [name.rpartition('/')[2] for name in sorted(hidden)] == ['.salt.sha256', units.LIST]

    machine('two')
    found = open_prepared(DATA, 'image_folder', SIZE)
    assert images(found) == {pixels(number).tobytes() for number in range(IMAGES)}
    # Times of the files and the name of the source are the same here; the salt has to be copied.
    assert main(COMMAND.split()) == 2 and 'another salt' in capsys.readouterr().err
    (local(DATA) / SALT_FILE).write_bytes(salt)
    no_decoding(monkeypatch)
    assert main(COMMAND.split()) == 0
    assert not list(tmp_path.glob('memory:*'))


def test_an_upload_that_fails_is_told_and_made_up_for(raw, machine, monkeypatch, capsys):
    def fail(*args, **more):
        raise ConnectionError('the network is down')

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, 'put_file', fail)
        assert main(COMMAND.split()) == 2
    told = capsys.readouterr().err.split('\n')[-2]
    assert 'the network is down' in told and DATA in told and 'nothing is lost' in told
    machine('two')
    with pytest.raises(UserError, match='holds no prepared set'):
        open_prepared(DATA, 'image_folder', SIZE)
    machine('one')
    no_decoding(monkeypatch)
    assert main(COMMAND.split()) == 0
    machine('two')
    assert len(open_prepared(DATA, 'image_folder', SIZE).index) == IMAGES


def test_a_set_that_is_prepared_anew_is_brought_anew(raw, machine):
    prepare('image_folder', RAW, DATA, SIZE, splits='none', processes=1)
    machine('two')
    before = open_prepared(DATA, 'image_folder', SIZE).fingerprint
    machine('one')
    MemoryFileSystem().rm_file('/bucket/raw/0.png')
    after = prepare('image_folder', RAW, DATA, SIZE, splits='none', processes=1)
    assert len(after.index) == IMAGES - 1
    machine('two')
    found = open_prepared(DATA, 'image_folder', SIZE)
    assert found.fingerprint == after.fingerprint != before
    units.remove(local(DATA) / 'image_folder' / f'{SIZE}px')
    with pytest.raises(UserError, match='holds no other'):
        open_prepared(DATA, 'image_folder', SIZE)


def test_masks_go_with_the_set(raw, machine):
    prepared = prepare('image_folder', RAW, DATA, 4 * SIZE, splits='none', processes=1)
    lungs = np.zeros((4 * SIZE, 4 * SIZE), bool)
    lungs[20:76, 12:42] = lungs[20:76, 54:84] = True
    masks.write_masks(prepared, 'drawn', [lungs] * IMAGES, {})
    machine('two')
    with pytest.raises(UserError, match='Masks there: drawn') as refused:
        open_prepared(DATA, 'image_folder', 4 * SIZE, 'other')
    assert f'--config.data.dir={DATA}' in str(refused.value)
    found = open_prepared(DATA, 'image_folder', 4 * SIZE, 'drawn')
    assert len(found.rows) == IMAGES
    assert (found.masks.mask(0)[..., 0] == lungs).all()
    assert mask_store.FOLDER in {path.name for path in found.directory.iterdir()}


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (f'{COMMAND} --shard 0/2', 'Shares meet in a folder'),
        (f'{COMMAND.replace("bucket/raw", "bucket/row")}', 'nothing at memory://bucket/row'),
        (f'--dataset synthetic_cxr --source {RAW} --data_dir data', 'draws its raw files into'),
        ('--dataset image_folder --source gs:/a/b --data_dir data', 'did you mean gs://a/b?'),
        ('--dataset image_folder --source raw --data_dir http://a/b', 'http://a/b cannot be used'),
    ],
)
def test_what_is_not_possible_is_refused(raw, capsys, monkeypatch, tmp_path, words, expected):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert expected in told and told.count('\n') == 1
    assert not [path for path in tmp_path.iterdir() if ':' in path.name]
