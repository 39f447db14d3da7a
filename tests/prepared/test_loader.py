"""Batches against grain's own pipeline over TFDS's own decoding; damage; regions."""

import json
import math
import shutil
from itertools import islice

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared import data as prepared_module
from data_pipelines.prepared import loader
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.loader import eval_batches, train_batches
from data_pipelines.preparing import build
from tests.siim_tree import write_siim_tree

SIZE = 16


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp('loader')
    write_siim_tree(root / 'raw', patients_per_class=7)
    prepare('siim_covid19', root / 'raw', root / 'data', size=SIZE, processes=1)
    return root / 'data'


@pytest.fixture(scope='module')
def prepared(data_dir):
    return open_prepared(data_dir, 'siim_covid19', SIZE)


@pytest.fixture(scope='module')
def stored(prepared):
    """{split: records as TFDS itself decodes them}."""
    builder = tfds.builder_from_directory(str(prepared.directory / '1.0.0'))
    return {split: list(builder.as_data_source(split)) for split in prepared.counts}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_batches_are_rows_of_grains_shuffled_epochs(prepared, stored):
    rows = grain.MapDataset.source(stored['train']).shuffle(7).repeat()
    for i, batch in enumerate(islice(train_batches(prepared, 'train', 6, 7, masks=True), 12)):
        expected = [rows[k] for k in range(6 * i, 6 * i + 6)]
        assert batch.keys() == {'image', 'label', 'lung_mask'}
        for name, dtype in (('image', np.uint8), ('label', np.int32), ('lung_mask', np.uint8)):
            assert batch[name].dtype == dtype
            np.testing.assert_array_equal(batch[name], np.stack([row[name] for row in expected]))


@pytest.mark.parametrize('kept', [2**30, 0])
def test_resumed_equals_uninterrupted(prepared, monkeypatch, kept):
    whole = list(islice(train_batches(prepared, 'train', 5, seed=3), 14))
    monkeypatch.setattr(loader, 'KEEP_BYTES', kept)
    for start in (1, 9):
        resumed = islice(train_batches(prepared, 'train', 5, seed=3, start=start), 14 - start)
        for first, second in zip(whole[start:], resumed, strict=True):
            assert_same(first, second)


def test_shards_concatenated_are_the_unsharded_batch(prepared):
    whole = islice(train_batches(prepared, 'train', 8, seed=1), 5)
    parts = [train_batches(prepared, 'train', 8, seed=1, shard=(k, 4)) for k in range(4)]
    for batch in whole:
        pieces = [next(part) for part in parts]
        assert_same(batch, {name: np.concatenate([p[name] for p in pieces]) for name in batch})
    with pytest.raises(UserError, match='not a multiple'):
        train_batches(prepared, 'train', 8, seed=1, shard=(0, 3))
    with pytest.raises(UserError, match='not a multiple'):
        loader.train_rows(prepared, 'train', 8, seed=1, shard=(0, 3))


@pytest.mark.parametrize('shard', [(0, 1), (1, 2)])
def test_rows_of_the_whole_split_are_the_batches(prepared, stored, monkeypatch, shard):
    monkeypatch.setattr(loader, 'READ_AT_ONCE', 7)
    whole = loader.whole_split(prepared, 'train', masks=True)
    assert all(len(values) == len(stored['train']) for values in whole.values())
    for number, record in enumerate(stored['train']):
        for name in ('image', 'label', 'lung_mask'):
            np.testing.assert_array_equal(whole[name][number], record[name])
    rows = loader.train_rows(prepared, 'train', 4, seed=5, start=3, shard=shard)
    batches = train_batches(prepared, 'train', 4, 5, start=3, shard=shard, masks=True)
    for numbers, batch in islice(zip(rows, batches, strict=True), 9):
        assert numbers.dtype == np.int32
        assert_same({name: values[numbers] for name, values in whole.items()}, batch)


def test_a_set_in_several_files_reads_the_same(data_dir, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'SHARD_BYTES', 5 * SIZE * SIZE)
    raw = data_dir.parent / 'raw'
    parts = prepare('siim_covid19', raw, tmp_path, size=SIZE, processes=1)
    assert len(list((parts.directory / '1.0.0').glob('*train*'))) > 2
    numbers = [9, 0, 4, 5, 10, 4, parts.counts['train'] - 1]
    several, one = (loader.read_records(data, 'train', numbers) for data in (parts, prepared))
    for name in ('image', 'label', 'lung_mask', 'age', 'spacing'):
        np.testing.assert_array_equal(several[name], one[name])
    batches = zip(*(train_batches(data, 'train', 6, 2) for data in (parts, prepared)), strict=True)
    for first, second in islice(batches, 8):
        assert_same(first, second)


def test_each_epoch_has_every_record_once_in_another_order(prepared, stored):
    n = prepared.counts['train']
    batches = islice(train_batches(prepared, 'train', 1, seed=0), 2 * n)
    images = [batch['image'].tobytes() for batch in batches]
    everything = sorted(record['image'].tobytes() for record in stored['train'])
    assert sorted(images[:n]) == sorted(images[n:]) == everything
    assert images[:n] != images[n:]


@pytest.mark.parametrize('shards', [1, 2])
def test_eval_covers_every_record_once_in_stored_order(prepared, stored, shards):
    size = 4
    iterators = [
        list(eval_batches(prepared, 'train', size, shard=(k, shards))) for k in range(shards)
    ]
    n = prepared.counts['train']
    assert n % size, 'the last batch must need filling up'
    assert [len(batches) for batches in iterators] == [math.ceil(n / size)] * shards
    got = []
    for batches in zip(*iterators, strict=True):
        for batch in batches:
            assert batch['image'].shape == (size // shards, SIZE, SIZE, 1)
            got += [
                {name: values[row] for name, values in batch.items()}
                for row in np.flatnonzero(batch['valid'])
            ]
    assert len(got) == n
    for record, expected in zip(got, stored['train'], strict=True):
        record.pop('valid')
        assert record.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, bytes):
                assert record[name] == value.decode()
            else:
                np.testing.assert_array_equal(record[name], value)


def test_eval_leaves_masks_out_on_request(prepared):
    batch = next(eval_batches(prepared, 'test', 2, masks=False))
    assert 'lung_mask' not in batch and batch['has_lung_mask'].all()


def test_errors_in_threads_surface(prepared, monkeypatch):
    calls = []

    def break_later(raw, fields, size, bits):
        calls.append(raw)
        if len(calls) > 10:
            raise OSError('disk gone')
        return original(raw, fields, size, bits)

    original = prepared_module.decode
    monkeypatch.setattr(prepared_module, 'decode', break_later)
    with pytest.raises(OSError, match='disk gone'):
        list(islice(train_batches(prepared, 'train', 4, seed=0), 50))


def test_unknown_split_and_region_are_told(prepared):
    with pytest.raises(UserError, match="'val'"):
        train_batches(prepared, 'val', 4, seed=0)
    with pytest.raises(UserError, match='lung regions'):
        prepared.contract('ribs')
    assert prepared.contract('background') == {
        'channels': 1,
        'size': SIZE,
        'bits': 8,
        'region': 'background',
        **prepared.statistics['background'],
    }


def test_a_missing_set_is_told_with_the_command_and_the_sizes_there_are(data_dir):
    with pytest.raises(UserError, match=r'sizes of siim_covid19 there: \[16\].*--size 99'):
        open_prepared(data_dir, 'siim_covid19', 99)


@pytest.mark.parametrize('damage', ['shorter', 'gone', 'other', 'card', 'format'])
def test_a_damaged_set_is_refused(data_dir, tmp_path, damage):
    shutil.copytree(data_dir, tmp_path / 'copy')
    directory = tmp_path / 'copy' / 'siim_covid19' / f'{SIZE}px'
    file = next((directory / '1.0.0').glob('*train*'))
    card = json.loads((directory / 'card.json').read_text())
    if damage == 'shorter':
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == 'gone':
        file.unlink()
    elif damage == 'card':
        (directory / 'card.json').unlink()
    else:
        card |= {'fingerprint': 'f' * 64} if damage == 'other' else {'format': 0}
        (directory / 'card.json').write_text(json.dumps(card))
    with pytest.raises(UserError, match='python -m data_pipelines.prepare'):
        open_prepared(tmp_path / 'copy', 'siim_covid19', SIZE)
