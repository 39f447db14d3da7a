"""Batches against grain's own pipeline over TFDS's own decoding; several sets; damage."""

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
from data_pipelines.prepared import loader, mask_store
from data_pipelines.prepared.corpus import union
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.index import INDEX_FILE
from data_pipelines.prepared.loader import eval_batches, train_batches
from data_pipelines.prepared.record_map import RecordMap
from data_pipelines.prepared.records import SPLIT, VERSION
from data_pipelines.prepared.sampler import Sampler
from data_pipelines.prepared.target import target_of
from data_pipelines.preparing import build
from tests.siim_tree import write_siim_tree

SIZE = 16
EVERYTHING = ('image', 'label', 'lung_mask', 'row')


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
def train(prepared):
    return prepared.corpus('train')


@pytest.fixture(scope='module')
def stored(prepared):
    """The training records as TFDS itself decodes them, in stored order."""
    builder = tfds.builder_from_directory(str(prepared.directory / VERSION))
    records = builder.as_data_source(SPLIT)
    assert len(builder.info.splits) == 1 and len(records) == len(prepared.index)
    return [records[int(k)] for k in np.flatnonzero(prepared.index.split == 'train')]


@pytest.fixture(scope='module')
def two_sets(data_dir, prepared, tmp_path_factory):
    """Some images of the set, then all of another."""
    raw = tmp_path_factory.mktemp('second') / 'raw'
    write_siim_tree(raw, patients_per_class=2, masks=False, seed=5)
    second = prepare('siim_covid19', raw, data_dir, SIZE, processes=1, name='second',
                     splits='none')  # fmt: skip
    return union([prepared.corpus('test'), second.corpus()])


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def batches_of(corpus, batch_size, seed, fields=('image', 'row'), **settings):
    return train_batches(corpus, Sampler(corpus, batch_size, seed), fields=fields, **settings)


def test_batches_are_rows_of_grains_shuffled_epochs(train, stored, prepared):
    values = target_of(prepared).values(train)
    rows = grain.MapDataset.source(list(enumerate(stored))).shuffle(7).repeat()
    batches = batches_of(train, 6, 7, EVERYTHING, labels=values)
    for i, batch in enumerate(islice(batches, 12)):
        numbers, expected = zip(*(rows[k] for k in range(6 * i, 6 * i + 6)), strict=True)
        assert batch.keys() == set(EVERYTHING)
        assert batch['row'].dtype == np.int32 and batch['row'].tolist() == list(numbers)
        for name in ('image', 'lung_mask'):
            assert batch[name].dtype == np.uint8
            np.testing.assert_array_equal(batch[name], np.stack([row[name] for row in expected]))
        assert batch['label'].dtype == np.int32
        assert batch['label'].tolist() == [int(row['labels'].argmax()) for row in expected]


def test_batches_hold_what_is_asked_for(train):
    findings = np.arange(len(train) * 3).reshape(-1, 3)
    (batch,) = islice(batches_of(train, 4, 0, ('label', 'row'), labels=findings), 1)
    assert batch.keys() == {'label', 'row'}
    np.testing.assert_array_equal(batch['label'], findings[batch['row']])
    (batch,) = islice(batches_of(train, 4, 0, ('image', 'label')), 1)
    assert batch['label'].tolist() == [-1] * 4 and batch['label'].dtype == np.int32
    with pytest.raises(ValueError, match='age'):
        batches_of(train, 4, 0, ('image', 'age'))


@pytest.mark.parametrize('kept', [2**30, 0])
def test_resumed_equals_uninterrupted(train, data_dir, monkeypatch, kept):
    whole = list(islice(batches_of(train, 5, 3, EVERYTHING), 14))
    monkeypatch.setattr(mask_store, 'KEEP_BYTES', kept)
    for start in (1, 9):
        again = open_prepared(data_dir, 'siim_covid19', SIZE).corpus('train')
        resumed = islice(batches_of(again, 5, 3, EVERYTHING, start=start), 14 - start)
        for first, second in zip(whole[start:], resumed, strict=True):
            assert_same(first, second)


def test_shards_concatenated_are_the_unsharded_batch(train):
    whole = islice(batches_of(train, 8, 1, EVERYTHING), 5)
    parts = [batches_of(train, 8, 1, EVERYTHING, shard=(k, 4)) for k in range(4)]
    for batch in whole:
        pieces = [next(part) for part in parts]
        assert_same(batch, {name: np.concatenate([p[name] for p in pieces]) for name in batch})
    with pytest.raises(UserError, match='not a multiple'):
        batches_of(train, 8, 1, shard=(0, 3))
    with pytest.raises(UserError, match='not a multiple'):
        loader.train_rows(Sampler(train, 8, 1), shard=(0, 3))


@pytest.mark.parametrize('shard', [(0, 1), (1, 2)])
def test_rows_of_the_whole_corpus_are_the_batches(train, stored, shard):
    labels = np.arange(len(train)) ** 2
    whole = loader.whole(train, EVERYTHING, labels)
    assert all(len(values) == len(stored) for values in whole.values())
    for number, record in enumerate(stored):
        for name in ('image', 'lung_mask'):
            np.testing.assert_array_equal(whole[name][number], record[name])
    assert whole['row'].tolist() == list(range(len(stored)))
    rows = loader.train_rows(Sampler(train, 4, 5), start=3, shard=shard)
    batches = batches_of(train, 4, 5, EVERYTHING, start=3, shard=shard, labels=labels)
    for numbers, batch in islice(zip(rows, batches, strict=True), 9):
        assert numbers.dtype == np.int32
        assert_same({name: values[numbers] for name, values in whole.items()}, batch)


def test_images_of_several_sets_come_from_their_own_records(two_sets):
    (first, rows), (second, others) = two_sets.parts
    alone = [loader.read_records(p.corpus(), range(len(p.index))) for p in (first, second)]
    expected = {
        name: np.concatenate([np.asarray(alone[0][name])[rows], np.asarray(alone[1][name])[others]])
        for name in ('image', 'lung_mask', 'image_id', 'has_lung_mask', 'age')
    }
    for name in ('image', 'lung_mask'):
        np.testing.assert_array_equal(loader.whole(two_sets, (name,))[name], expected[name])
    for batch in islice(batches_of(two_sets, 7, 2, EVERYTHING), 8):
        for name in ('image', 'lung_mask'):
            np.testing.assert_array_equal(batch[name], expected[name][batch['row']])
    for batch in eval_batches(two_sets, 4):
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values[batch['row']])
    np.testing.assert_array_equal(two_sets.column('image_id'), expected['image_id'])
    np.testing.assert_array_equal(two_sets.column('has_mask'), expected['has_lung_mask'])
    assert expected['has_lung_mask'].any() and not expected['has_lung_mask'].all()


def test_a_set_in_several_files_reads_the_same(data_dir, train, tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'SHARD_BYTES', 5 * SIZE * SIZE)
    raw = data_dir.parent / 'raw'
    parts = prepare('siim_covid19', raw, tmp_path, size=SIZE, processes=1)
    assert len(list((parts.directory / VERSION).glob('*array_record*'))) > 2
    numbers = [9, 0, 4, 5, 10, 4, len(train) - 1]
    several, one = (loader.read_records(c, numbers) for c in (parts.corpus('train'), train))
    for name in ('image', 'lung_mask', 'age', 'spacing'):
        np.testing.assert_array_equal(several[name], one[name])
    both = (batches_of(c, 6, 2) for c in (parts.corpus('train'), train))
    for first, second in islice(zip(*both, strict=True), 8):
        assert_same(first, second)


def test_each_epoch_has_every_record_once_in_another_order(train, stored):
    n = len(train)
    images = [batch['image'].tobytes() for batch in islice(batches_of(train, 1, 0), 2 * n)]
    everything = sorted(record['image'].tobytes() for record in stored)
    assert sorted(images[:n]) == sorted(images[n:]) == everything
    assert images[:n] != images[n:]


@pytest.mark.parametrize('shards', [1, 2])
def test_eval_covers_every_record_once_in_stored_order(train, stored, shards):
    size, n, labels = 4, len(train), np.arange(len(train)) + 100
    iterators = [
        list(eval_batches(train, size, shard=(k, shards), labels=labels)) for k in range(shards)
    ]
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
    for number, (record, expected) in enumerate(zip(got, stored, strict=True)):
        record.pop('valid')
        assert record.pop('row') == number and record.pop('label') == number + 100
        assert record.keys() == expected.keys() - {'labels'}
        for name, value in record.items():
            if isinstance(expected[name], bytes):
                assert value == expected[name].decode()
            else:
                np.testing.assert_array_equal(value, expected[name])


def test_eval_leaves_masks_out_on_request(prepared):
    batch = next(eval_batches(prepared.corpus('test'), 2, masks=False))
    assert 'lung_mask' not in batch and batch['has_lung_mask'].all()
    assert batch['label'].tolist() == [-1, -1]
    nothing = prepared.corpus('test').take(np.array([], int))
    assert not list(eval_batches(nothing, 2)) and not len(loader.whole(nothing)['image'])


def test_errors_in_threads_surface(train, monkeypatch):
    calls = []

    def break_later(records, numbers, out, at):
        calls.append(numbers)
        if len(calls) > 3:
            raise OSError('disk gone')
        return original(records, numbers, out, at)

    original = RecordMap.images
    monkeypatch.setattr(RecordMap, 'images', break_later)
    with pytest.raises(OSError, match='disk gone'):
        list(islice(batches_of(train, 4, 0), 50))


def test_a_missing_set_is_told_with_the_command_and_the_sets_there_are(data_dir, two_sets):
    with pytest.raises(UserError, match=r'second \(16\), siim_covid19 \(16\).*--size 99'):
        open_prepared(data_dir, 'siim_covid19', 99)
    with pytest.raises(UserError, match='--dataset image_folder --name mine --source'):
        open_prepared(data_dir, 'mine', SIZE)


def test_the_index_tells_what_the_records_hold(prepared, stored, train):
    for field in ('image_id', 'patient', 'study', 'source', 'view', 'sex'):
        assert train.column(field).tolist() == [record[field].decode() for record in stored]
    for field, name in (('age', 'age'), ('labels', 'labels'), ('has_mask', 'has_lung_mask')):
        np.testing.assert_array_equal(train.column(field), [record[name] for record in stored])
    assert train.column('has_boxes').tolist() == [len(r['boxes']) > 0 for r in stored]
    for record, sums, lungs in zip(
        stored, train.column('sums'), train.column('lung_sums'), strict=True
    ):
        x, inside = record['image'].astype(int), record['lung_mask'] == 1
        assert sums.tolist() == [x.size, x.sum(), (x**2).sum()]
        assert lungs.tolist() == [inside.sum(), x[inside].sum(), (x[inside] ** 2).sum()]
    contents = {}
    for record, content in zip(stored, train.column('content'), strict=True):
        assert contents.setdefault(content, record['image'].tobytes()) == record['image'].tobytes()
    assert len(contents) == len({record['image'].tobytes() for record in stored})
    with pytest.raises(ValueError, match='read-only'):
        prepared.index.labels[0] = 0


@pytest.mark.parametrize('damage', ['shorter', 'gone', 'other', 'card', 'format', 'index', 'bits'])
def test_a_damaged_set_is_refused(data_dir, tmp_path, damage):
    shutil.copytree(data_dir, tmp_path / 'copy')
    directory = tmp_path / 'copy' / 'siim_covid19' / f'{SIZE}px'
    file = next((directory / VERSION).glob('*array_record*'))
    card = json.loads((directory / 'card.json').read_text())
    if damage == 'shorter':
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == 'gone':
        file.unlink()
    elif damage == 'card':
        (directory / 'card.json').unlink()
    elif damage == 'index':
        (directory / INDEX_FILE).unlink()
    elif damage == 'bits':
        content = bytearray((directory / INDEX_FILE).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / INDEX_FILE).write_bytes(content)
    else:
        card |= {'fingerprint': 'f' * 64} if damage == 'other' else {'format': 0}
        (directory / 'card.json').write_text(json.dumps(card))
    with pytest.raises(UserError, match='python -m data_pipelines.prepare --dataset siim_covid19'):
        open_prepared(tmp_path / 'copy', 'siim_covid19', SIZE)
