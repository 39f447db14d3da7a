"""ct_slices and mri_slices: what they list, and sets prepared from volumes."""

import os

import numpy as np
import pytest

from data_pipelines.datasets import ct_slices, mri_slices
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


def voxels(shape=(4, 10, 12)):
    return RNG.integers(-1500, 1800, shape).astype(np.int16)


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
