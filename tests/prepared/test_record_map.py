"""The mapped records against those that TFDS and ArrayRecord read; what is kept of them."""

import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.errors import UserError
from data_pipelines.prepared import record_map
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.record_map import PLACES_FILE
from data_pipelines.prepared.records import SPLIT, VERSION
from data_pipelines.preparing import build
from scripts.benches import prepared_set

# Images of less than a block, of one and of several.
SIZES = (24, 256, 400)


@pytest.fixture
def write(tmp_path):
    """Writes and opens a set of noise: 4 images to train on, 128 others."""

    def written(size):
        prepared_set.write_set(tmp_path, 4, size)
        return open_prepared(tmp_path, prepared_set.NAME, size)

    return written


def again(prepared):
    return open_prepared(prepared.data_dir, prepared.name, prepared.size)


def read(prepared, rows=(5, 0, 131, 5)):
    return [record['image'] for record in prepared.read(rows, ('image',))]


@pytest.mark.parametrize('size', SIZES)
def test_every_field_is_what_tfds_reads(write, monkeypatch, size):
    monkeypatch.setattr(build, 'SHARD_BYTES', 50 * size**2)  # three files
    prepared = write(size)
    source = tfds.builder_from_directory(str(prepared.directory / VERSION)).as_data_source(SPLIT)
    assert len(source) == 132 and len(list((prepared.directory / VERSION).glob('*-of-00003'))) == 3
    for kept in (False, True):
        assert (prepared.directory / PLACES_FILE).is_file() == kept
        found = again(prepared).read(range(132), ('columns', 'image', 'image_id', 'spacing'))
        for record, expected in zip(found, source, strict=True):
            np.testing.assert_array_equal(record['image'], expected['image'])
            np.testing.assert_array_equal(record['spacing'], expected['spacing'])
            for name in ('image_id', 'columns'):
                assert record[name] == expected[name].decode()


@pytest.mark.parametrize('damage', ['cut off', 'bits', 'empty', 'of another set', 'no file'])
def test_places_that_are_damaged_are_found_anew(write, damage):
    prepared = write(24)
    expected, path = read(prepared), prepared.directory / PLACES_FILE
    content = path.read_bytes()
    if damage == 'of another set':
        np.savez(path, of='another', places=np.zeros((132, 5), np.int64))
    elif damage == 'no file':
        path.unlink()
    else:
        spoilt = bytearray(content)
        spoilt[len(spoilt) // 2] ^= 1
        path.write_bytes({'cut off': content[:-1000], 'bits': spoilt, 'empty': b''}[damage])
    np.testing.assert_array_equal(read(again(prepared)), expected)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_read(write, monkeypatch):
    prepared = write(24)

    def refused(path, **arrays):
        raise PermissionError(path)

    monkeypatch.setattr(np, 'savez', refused)
    source = tfds.builder_from_directory(str(prepared.directory / VERSION)).as_data_source(SPLIT)
    np.testing.assert_array_equal(read(prepared, [131, 3]), [source[k]['image'] for k in (131, 3)])
    assert [path.name for path in prepared.directory.glob('*.npz')] == ['index.npz']


def test_places_are_found_once(write, monkeypatch):
    prepared = write(24)
    assert len(read(prepared)) == 4
    monkeypatch.setattr(record_map, '_find', None)
    np.testing.assert_array_equal(read(again(prepared)), read(prepared))


def test_several_that_begin_at_once_read_the_same(write):
    prepared, found = write(24), []
    threads = [
        threading.Thread(target=lambda: found.append(read(again(prepared)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for images in found:
        np.testing.assert_array_equal(images, found[0])
    assert sorted(path.name for path in prepared.directory.glob('*.npz')) == [
        'index.npz', PLACES_FILE,
    ]  # fmt: skip


@pytest.mark.parametrize('options', ['group_size:1', 'group_size:8,uncompressed'])
def test_records_stored_otherwise_are_refused(write, options):
    prepared = write(24)
    (path,) = (prepared.directory / VERSION).glob('*array_record-*')
    source = record_map.ArrayRecordReader(str(path))
    records = source.read_all()
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    with pytest.raises(UserError, match='array_record.*prepare it again'):
        read(prepared)
