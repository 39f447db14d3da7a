"""luna16: what it lists, and patches computed by hand."""

import csv
import os

import numpy as np
import pytest

from data_pipelines.datasets import luna16
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared.key_file import read_key_file
from tests.siim_tree import stored_records
from tests.volumes import write_mhd

RNG = np.random.default_rng(4)
HEADER = 'seriesuid,coordX,coordY,coordZ,class\n'


def voxels(shape=(4, 10, 12)):
    return RNG.integers(-1500, 1800, shape).astype(np.int16)


def write_table(root, rows):
    (root / 'candidates_V2.csv').write_text(HEADER + ''.join(f'{row}\n' for row in rows))


@pytest.fixture
def luna(tmp_path):
    """{seriesuid: voxels} of five scans in the subsets 2, 8 and 9, and their candidates."""
    scans = {uid: voxels() for uid in ('1.1', '1.2', '1.3', '1.8', '1.9')}
    for uid, subset in zip(scans, (2, 2, 2, 8, 9), strict=True):
        turned = (1, 2) if uid == '1.2' else ()
        path = tmp_path / 'raw' / f'subset{subset}' / f'{uid}.mhd'
        write_mhd(path, scans[uid], turned, spacing=(2.5, 0.5, 0.5))
    # The first voxel is tests.volumes.ORIGIN: x = -30 + i / 2, y = 10 + j / 2, z = -40 + 2.5 k.
    rows = [
        '1.1,-28.5,12.5,-37.5,1',  # i 3, j 5, k 1
        '1.2,-28.5,12.5,-37.5,1',  # the same place, stored from its end
        '1.2,-30.1,10.1,-32.6,0',  # i 0, j 0, k 3: a corner
        '1.3,-28,11,-38.6,0',  # i 4, j 2, k 1 (0.56)
        '1.3,-27,11,60,0',  # above the scan
        '1.8,-26,14,-40,1',  # i 8, j 8
        '1.9,-26,14,-40,0',
        '1.777,-24,14,-40,1',  # of a subset that is not there
    ]
    write_table(tmp_path / 'raw', rows)
    return tmp_path / 'raw', scans


def grey(patch):
    return np.rint(np.clip((patch.astype(float) + 1000) / 2400, 0, 1) * 255)


def test_patches_of_luna16_are_those_computed_by_hand(luna, tmp_path):
    raw, scans = luna
    os.truncate(raw / 'subset2' / '1.1.raw', 500)
    prepared = prepare(
        'luna16', raw, tmp_path / 'data', size=8, processes=2, options=('negatives=1', 'side=8')
    )
    assert prepared.names == ('nodule', 'other') and prepared.card['exclusive']
    with (prepared.directory / 'quarantine.csv').open() as file:
        assert {row['file']: row['reason'] for row in csv.DictReader(file)} == {
            'subset2/1.1.mhd': 'the data file is cut off: 500 of 960 bytes are there',
            'subset2/1.3.mhd#candidate4': 'the candidate lies outside the scan',
        }
    files = read_key_file(prepared.directory)
    shown = {files[str(r['image_id'], 'ascii')]: r for r in stored_records(prepared)}
    padded = np.pad(scans['1.2'], ((0, 0), (4, 4), (4, 4)), constant_values=-1000)
    expected = {
        'subset2/1.2.mhd#candidate1': (padded[1, 5:13, 3:11], 'train', 2, [1, 0]),
        'subset2/1.2.mhd#candidate2': (padded[3, 0:8, 0:8], 'train', 2, [0, 1]),
        'subset2/1.3.mhd#candidate3': (np.pad(scans['1.3'][1, 0:6, 0:8], ((2, 0), (0, 0)),
                                              constant_values=-1000), 'train', 2, [0, 1]),
        'subset8/1.8.mhd#candidate5': (scans['1.8'][0, 4:10, 4:12], 'validation', 8, [1, 0]),
        'subset9/1.9.mhd#candidate6': (scans['1.9'][0, 4:10, 4:12], 'test', 9, [0, 1]),
    }  # fmt: skip
    assert shown.keys() == expected.keys()
    for name, (patch, split, fold, labels) in expected.items():
        patch = np.pad(patch, ((0, 8 - len(patch)), (0, 0)), constant_values=-1000)
        np.testing.assert_array_equal(shown[name]['image'][..., 0], grey(patch), name)
        assert shown[name]['split'] == split and f'"fold": {fold}' in str(shown[name]['columns'])
        assert list(shown[name]['labels']) == labels
        np.testing.assert_allclose(shown[name]['spacing'], (0.5, 0.5))
    assert prepared.card['notes'][1] == (
        '1 candidates of 1 scans that are not there are left out; the subsets 0, 1, 3, 4, 5, 6, 7 '
        'are not there.'
    )
    assert prepared.card['images_without_patient_id'] == 0


def test_a_tenth_of_the_negatives_is_always_the_same_one(luna):
    raw, _ = luna
    rows = [f'1.3,-27,{10 + k / 1000},-38.6,{int(k % 100 == 0)}' for k in range(4000)]
    write_table(raw, rows)

    def chosen(**options):
        items = luna16.list_items(raw, side=8, **options).items
        nodules = [item.relative for item in items if item.labels == (1, 0)]
        assert len(nodules) == 40
        return {item.relative for item in items} - set(nodules)

    tenth = chosen()
    assert 330 < len(tenth) < 462  # 396 on average, with a deviation of 19
    assert chosen() == tenth < chosen(negatives=0.2)
    assert chosen(negatives=0.0) == set() and len(chosen(negatives=1.0)) == 3960
    # Which rows are drawn does not depend on the others, and on no state of the machine.
    assert sorted(int(name.split('candidate')[1]) for name in tenth)[:5] == [6, 15, 29, 34, 56]


def test_folds_of_luna16_become_splits(luna):
    raw, _ = luna

    def splits(**options):
        items = luna16.list_items(raw, negatives=1.0, **options).items
        return {item.columns['fold']: item.split for item in items}

    assert splits() == {2: 'train', 8: 'validation', 9: 'test'}
    assert splits(test_fold='8,9', validation_fold='') == {2: 'train', 8: 'test', 9: 'test'}
    assert splits(test_fold='', validation_fold='') == {2: '', 8: '', 9: ''}
    for wrong in ('0', '8', 'x', '2,2'):
        with pytest.raises(UserError, match='There are 2, 8, 9'):
            splits(test_fold=wrong)


def test_mistakes_with_luna16_are_told(luna, tmp_path):
    raw, _ = luna
    for options in ({'negatives': 2.0}, {'side': 2}, {'low': 5.0, 'high': 5.0}):
        with pytest.raises(UserError, match=next(iter(options))):
            luna16.list_items(raw, **options)
    write_table(raw, ['1.1,-28.5,12.5,,1'])
    with pytest.raises(UserError, match='1.1 has a coordinate that is no number'):
        luna16.list_items(raw)
    write_table(raw, ['1.1,-28.5,12.5,-37.5,yes'])
    with pytest.raises(UserError, match="class 'yes'"):
        luna16.list_items(raw)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no folder subset0'):
        luna16.list_items(tmp_path / 'empty')
