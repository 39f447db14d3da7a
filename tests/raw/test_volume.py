"""Volumes of three kinds of files are read alike, and pieces of them cut as computed by hand."""

import os

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from data_pipelines.raw.dicom_pixels import UnreadableRadiograph
from data_pipelines.raw.volume import Piece
from data_pipelines.raw.volume_files import open_volume, read_piece
from tests.volumes import ORIGIN, SPACING, write_mhd, write_nifti, write_series

# Every voxel differs, from -1000 on.
VOXELS = (np.arange(5 * 6 * 7) * 9 - 1000).reshape(5, 6, 7).astype(np.int16)
WINDOW = (-1000.0, 1400.0)


def write(kind, folder):
    if kind == 'series':
        return write_series(folder / 'series', VOXELS)
    if kind.startswith('nifti'):
        suffix, settings = {
            'nifti': ('.nii', {}),
            'nifti turned': ('.nii.gz', {'turned': ()}),
            'nifti sagittal': ('.nii.gz', {'axes': (1, 2, 0)}),
            'nifti scaled': ('.nii', {'slope': (2.0, -5.0)}),
        }[kind]
        voxels = (VOXELS + 5) / 2 if 'slope' in settings else VOXELS
        return write_nifti(folder / f'v{suffix}', voxels.astype(np.float32), **settings)
    return write_mhd(folder / 'v.mhd', VOXELS, **{
        'mhd': {}, 'mhd turned': {'turned': (1, 2)}, 'mhd upside down': {'turned': (0,)},
        'mhd big': {'big': True}, 'mhd compressed': {'compressed': True},
    }[kind])  # fmt: skip


KINDS = ['mhd', 'mhd turned', 'mhd upside down', 'mhd big', 'mhd compressed', 'nifti',
         'nifti turned', 'nifti sagittal', 'nifti scaled', 'series']  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file_gives_the_same_voxels(tmp_path, kind):
    volume = open_volume(write(kind, tmp_path))
    read = np.stack([np.asarray(volume.voxels[z]) for z in range(5)])
    np.testing.assert_array_equal(read, VOXELS)
    assert volume.shape == VOXELS.shape
    assert volume.maximum == 209 * 9 - 1000
    known = slice(1, 3) if kind == 'series' else slice(0, 3)
    np.testing.assert_allclose(volume.spacing[known], SPACING[known], rtol=1e-6)
    if kind != 'series':
        np.testing.assert_allclose(volume.origin, ORIGIN, atol=1e-5)
    radiograph = read_piece(volume.files[0].parent if kind == 'series' else volume.files[0],
                            Piece(3, volume.state, WINDOW))  # fmt: skip
    np.testing.assert_allclose(radiograph.pixels, (VOXELS[3] + 1000) / 2400, atol=1e-6)
    np.testing.assert_allclose(radiograph.header['spacing'], (0.5, 0.75), rtol=1e-6)


def test_the_window_ends_at_0_and_1_and_the_maximum_scales_from_0(tmp_path):
    values = np.array([[[-3024, -1000, -999, 200], [1399, 1400, 1401, 3000]]], np.int16)
    path = write_mhd(tmp_path / 'v.mhd', values)
    state = open_volume(path).state
    shown = read_piece(path, Piece(0, state, WINDOW)).pixels
    expected = [[0, 0, 1 / 2400, 0.5], [2399 / 2400, 1, 1, 1]]
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    shown = read_piece(path, Piece(0, state, None)).pixels
    expected = [[0, 0, 0, 1 / 15], [1399 / 3000, 1400 / 3000, 1401 / 3000, 1]]
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_slices_across_other_axes_have_the_head_on_top(tmp_path):
    path = write_mhd(tmp_path / 'v.mhd', VOXELS)
    state = open_volume(path).state
    for axis, expected, spacing in (
        (1, VOXELS[::-1, 4, :], (2.5, 0.75)),
        (2, VOXELS[::-1, :, 4], (2.5, 0.5)),
    ):
        radiograph = read_piece(path, Piece(4, state, WINDOW, axis))
        np.testing.assert_allclose(radiograph.pixels, (expected + 1000) / 2400, atol=1e-6)
        assert radiograph.header['spacing'] == spacing


def test_a_patch_at_the_border_is_padded_with_the_low_end(tmp_path):
    path = write_mhd(tmp_path / 'v.mhd', VOXELS, turned=(1, 2))
    piece = Piece(2, open_volume(path).state, WINDOW, centre=(1, 6), side=4)
    expected = np.zeros((4, 4))  # rows -1 to 2, columns 4 to 7 of 6 x 7
    expected[1:, :3] = (VOXELS[2, 0:3, 4:7] + 1000) / 2400
    np.testing.assert_allclose(read_piece(path, piece).pixels, expected, atol=1e-6)


def test_no_number_is_black(tmp_path):
    voxels = np.ones((1, 2, 2), np.float32) * 3
    voxels[0, 0, :] = np.nan, np.inf
    path = write_nifti(tmp_path / 'v.nii', voxels)
    shown = read_piece(path, Piece(0, open_volume(path).state, None)).pixels
    np.testing.assert_array_equal(shown, [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ('fields', 'reason'),
    [
        ({'ElementDataFile': 'LOCAL'}, 'LOCAL is not supported'),
        ({'ElementDataFile': 'gone.raw'}, 'gone.raw is missing'),
        ({'TransformMatrix': '0 1 0 1 0 0 0 0 1'}, 'oblique or exchanged'),
        ({'TransformMatrix': '1 0 0'}, 'no 9 numbers as TransformMatrix'),
        ({'ElementType': 'MET_OTHER'}, 'not that of a volume'),
        ({'DimSize': '7 6 5 4'}, 'not that of a volume'),
        ({'DimSize': '7 6 x'}, 'damaged .ValueError'),
        ({'DimSize': '7 6 90000000'}, '420 of 7560000000 bytes'),
    ],
)
def test_headers_that_cannot_be_used(tmp_path, fields, reason):
    with pytest.raises(UnreadableRadiograph, match=reason):
        open_volume(write_mhd(tmp_path / 'v.mhd', VOXELS, **fields))


@pytest.mark.parametrize('kind', ['mhd', 'mhd compressed', 'nifti', 'nifti turned', 'series'])
def test_damaged_data_have_a_reason(tmp_path, kind):
    path = write(kind, tmp_path)
    state = open_volume(path).state
    data = open_volume(path).files[-1]
    os.truncate(data, data.stat().st_size - 100)
    with pytest.raises(UnreadableRadiograph, match='cut off|damaged'):
        for z in range(5):
            read_piece(path, Piece(z, state + ' changed', WINDOW))


@pytest.mark.parametrize(
    ('elements', 'reason'),
    [
        ({'SeriesInstanceUID': ['1.1', '1.1', '1.1', '1.1', '1.2']}, 'several series'),
        ({'Columns': [7, 7, 7, 7, 6]}, 'several series, sizes'),
        ({'ImagePositionPatient': [[0, 0, z // 2] for z in range(5)]}, 'at one position'),
        ({'ImagePositionPatient': [[], [], [], [], []]}, 'the order of slices is unknown'),
        ({'NumberOfFrames': 3}, '3 frames'),
    ],
)
def test_folders_that_are_no_series_of_slices(tmp_path, elements, reason):
    folder = write_series(tmp_path / 's', VOXELS, **elements)
    with pytest.raises(UnreadableRadiograph, match=reason):
        read_piece(folder, Piece(0, f'{reason}', WINDOW))


def test_volumes_of_several_times_are_refused(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / 'v.nii')
    with pytest.raises(UnreadableRadiograph, match='4 x 4 x 4 x 2'):
        open_volume(tmp_path / 'v.nii')
    (tmp_path / 'text.nii').write_text('no volume')
    with pytest.raises(UnreadableRadiograph, match='damaged'):
        open_volume(tmp_path / 'text.nii')


@pytest.mark.parametrize('name', ['CT_small.dcm', 'MR_small.dcm'])
def test_a_scanner_s_own_slice(tmp_path, name):
    ds = pydicom.dcmread(get_testdata_file(name))
    ds.save_as(tmp_path / 'IM0001')
    volume = open_volume(tmp_path)
    shown = read_piece(tmp_path, Piece(0, volume.state, WINDOW)).pixels
    slope, intercept = ds.get('RescaleSlope', 1), ds.get('RescaleIntercept', 0)
    values = ds.pixel_array * float(slope) + float(intercept)
    assert volume.modality == name[:2] and values.max() > 100
    np.testing.assert_allclose(shown, np.clip((values + 1000) / 2400, 0, 1), atol=1e-6)
