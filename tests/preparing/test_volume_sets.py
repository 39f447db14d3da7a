"""luna16, ct_slices and mri_slices: what they list, and the sets prepared from them."""

import csv
import os

import numpy as np
import pytest

from data_pipelines.datasets import ct_slices, luna16, mri_slices
from data_pipelines.datasets.volume_slices import evenly_spaced
from data_pipelines.errors import UserError
from data_pipelines.prepare import main, prepare
from data_pipelines.prepared.key_file import read_key_file
from data_pipelines.preparing import items as raw_files
from data_pipelines.raw import volume_files
from tests.crashing import die_after_the_first
from tests.siim_tree import stored_records
from tests.volumes import write_mhd, write_nifti, write_series

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


def test_slices_are_evenly_spaced():
    assert evenly_spaced(100, 5) == [10, 30, 50, 70, 90]
    assert evenly_spaced(7, 3) == [1, 3, 5]
    assert evenly_spaced(3, 10) == [0, 1, 2]
    for count, wanted in ((311, 10), (11, 4), (9, 8)):
        steps = np.diff(evenly_spaced(count, wanted))
        assert steps.max() - steps.min() <= 1 and len(steps) == wanted - 1


def write_volumes(root):
    """Two patients with three volumes, and what is no volume of theirs; {name: voxels}."""
    volumes = {
        'a/first.nii.gz': voxels((10, 4, 4)),
        'a/follow_up/IMAGES': voxels((30, 4, 4)),
        'b/scan.mhd': voxels((3, 4, 4)),
    }
    write_nifti(root / 'a/first.nii.gz', volumes['a/first.nii.gz'])
    write_series(root / 'a/follow_up/IMAGES', volumes['a/follow_up/IMAGES'])
    write_mhd(root / 'b/scan.mhd', volumes['b/scan.mhd'])
    write_series(root / 'b/pet', voxels((3, 4, 4)), modality='PT')
    (root / 'a/first.json').write_text('{}')
    (root / 'a/broken.nii').write_text('')
    (root / 'a/follow_up/IMAGES/notes.txt').write_text('not a slice')
    return volumes


def test_slices_of_ct_are_shared_out_over_the_volumes_of_a_patient(tmp_path):
    write_volumes(tmp_path)
    listing = ct_slices.list_items(tmp_path, slices=4)
    # a has 40 slices: numbers 5, 15, 25 and 35 of both volumes laid end to end
    assert [(item.relative, item.patient) for item in listing.items] == [
        ('a/first.nii.gz#z005', 'a'), ('a/follow_up/IMAGES#z005', 'a'),
        ('a/follow_up/IMAGES#z015', 'a'), ('a/follow_up/IMAGES#z025', 'a'),
        ('b/scan.mhd#z000', 'b'), ('b/scan.mhd#z001', 'b'), ('b/scan.mhd#z002', 'b'),
    ]  # fmt: skip
    assert dict(listing.rejected).keys() == {'a/broken.nii', 'b/pet'}
    assert dict(listing.rejected)['b/pet'] == 'its modality is PT, not CT'
    assert listing.names == () and listing.items[0].columns == {'slice': 5, 'plane': 'axial'}

    (tmp_path / 'patients.csv').write_text('file,patient\na/follow_up/IMAGES,c\n')
    listing = ct_slices.list_items(tmp_path, slices=4)
    assert [item.patient for item in listing.items] == [*'aaaacccc', *'bbb']
    assert listing.notes[0].startswith('4 of 5 volumes have no row in patients.csv')


def test_mri_is_divided_by_its_maximum_and_cut_as_it_was_acquired(tmp_path):
    volume = RNG.integers(0, 700, (4, 8, 8)).astype(np.int16)
    volume[3, 0, 0] = 1000
    for patient in range(6):
        path = tmp_path / 'raw' / f'{patient}.nii.gz'
        write_nifti(path, volume + np.int16(patient), spacing=(2.5, 1, 1))
    prepared = prepare(
        'mri_slices', tmp_path / 'raw', tmp_path / 'data', size=8, splits='none',
        options=('slices=1',), processes=1,
    )  # fmt: skip
    files = read_key_file(prepared.directory)
    for record in stored_records(prepared):
        name = files[str(record['image_id'], 'ascii')]
        patient = int(name[0])
        assert name == f'{patient}.nii.gz#z002'
        expected = np.rint((volume[2] + patient) / (1000 + patient) * 255)
        np.testing.assert_allclose(record['image'][..., 0], expected, atol=1)
    assert prepared.card['patients'] == {'train': 6}

    image = write_nifti(tmp_path / 'thick' / 'p.nii', volume, axes=(2, 0, 1))
    stretch(image, (5.0, 0.5, 0.5))
    item = mri_slices.list_items(tmp_path / 'thick', slices=1).items[0]
    assert item.relative == 'p.nii#z002'
    stretch(image, (0.5, 5.0, 0.5))
    item = mri_slices.list_items(tmp_path / 'thick', slices=1).items[0]
    assert item.relative == 'p.nii#x004' and item.columns['plane'] == 'sagittal'


def stretch(path, zooms):
    """Gives the stored axes other spacings."""
    import nibabel

    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[:3, :3] *= np.array(zooms) / np.linalg.norm(affine[:3, :3], axis=0)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)


@pytest.fixture
def decoded(monkeypatch):
    """Fills with the names that are given to the decoding processes together."""
    runs, original = [], raw_files.map_isolated

    def watch(function, tasks, processes):
        runs.extend([task.relative for task in part] for part in tasks)
        return original(function, tasks, processes)

    monkeypatch.setattr(raw_files, 'map_isolated', watch)
    return runs


def test_a_set_of_volumes_is_prepared_only_where_it_changed(tmp_path, decoded):
    raw, data = tmp_path / 'raw', tmp_path / 'data'
    write_volumes(raw)

    def run():
        decoded.clear()
        settings = {'size': 8, 'splits': 'none', 'options': ('slices=4',), 'processes': 1}
        return prepare('ct_slices', raw, data, **settings)

    first = run()
    assert [len(part) for part in decoded] == [1, 3, 3], 'the pieces of a volume go together'
    assert run().fingerprint == first.fingerprint and not decoded

    write_mhd(raw / 'b/scan.mhd', voxels((3, 4, 4)))
    again = run()
    assert [{name[:10] for name in part} for part in decoded] == [{'b/scan.mhd'}]
    assert again.fingerprint != first.fingerprint and len(again.corpus()) == 7

    slices = sorted((raw / 'a/follow_up/IMAGES').glob('IM*'))
    os.utime(slices[7], ns=(1, 1))
    run()
    assert decoded == [[f'a/follow_up/IMAGES#z{z:03d}' for z in (5, 15, 25)]]


def test_a_volume_is_opened_once_for_all_of_its_pieces(tmp_path, monkeypatch):
    write_volumes(tmp_path)
    tasks = raw_files.Preparation(
        'ct_slices', tmp_path, tmp_path / 'data', size=8, options=('slices=4',)
    )
    tasks = tasks.make_tasks(tasks.list_items())
    opened, original = [], volume_files.open_volume
    monkeypatch.setattr(
        volume_files, 'open_volume', lambda path: opened.append(path.name) or original(path)
    )
    for part in raw_files.ingest.by_volume(reversed(tasks.values())):
        assert raw_files.ingest.prepare_volume(part) == [''] * len(part)
    assert opened == ['scan.mhd', 'IMAGES', 'first.nii.gz']


def test_shares_keep_volumes_whole(tmp_path, decoded):
    write_volumes(tmp_path / 'raw')
    arguments = ['--dataset', 'ct_slices', '--source', str(tmp_path / 'raw'), '--size', '8',
                 '--data_dir', str(tmp_path / 'data'), '--options', 'slices=4',
                 '--processes', '1']  # fmt: skip
    for share in range(3):
        assert main([*arguments, '--shard', f'{share}/3']) == 0
        assert len(decoded) == share + 1
    assert main([*arguments, '--splits', 'none']) == 3, 'two volumes were set aside'
    assert len(decoded) == 3


def test_a_crash_costs_the_pieces_that_are_left(tmp_path, monkeypatch):
    write_volumes(tmp_path / 'raw')
    monkeypatch.setattr(raw_files.ingest, 'prepare_volume', die_after_the_first)
    prepared = prepare(
        'ct_slices', tmp_path / 'raw', tmp_path / 'data', size=8, splits='none',
        options=('slices=4',), processes=1,
    )  # fmt: skip
    lines = (prepared.directory / 'quarantine.csv').read_text().splitlines()
    left = [line for line in lines if 'SIGKILL' in line]
    assert [line.split(',')[0] for line in left] == ['b/scan.mhd#z001', 'b/scan.mhd#z002']
    assert len(prepared.corpus()) == 5


def test_nibabel_is_asked_for(tmp_path, monkeypatch):
    import sys

    write_nifti(tmp_path / 'a.nii', voxels())
    monkeypatch.setitem(sys.modules, 'nibabel', None)
    with pytest.raises(UserError, match='pip install nibabel'):
        mri_slices.list_items(tmp_path)
