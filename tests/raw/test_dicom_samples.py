"""Files of real devices, and the oddities that come with pydicom."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from data_pipelines.raw.dicom import UnreadableRadiograph, read_radiograph


def test_samples_decode_with_the_right_polarity(shared):
    folder = shared / 'dicom_samples'
    images = {file.stem: read_radiograph(file).pixels for file in folder.glob('*.dcm')}
    assert len(images) >= 5
    chest, turned = images['rsna_jpeg_monochrome2'], images['rsna_jpeg_monochrome1_tag']
    np.testing.assert_allclose(chest + turned, 1, atol=1e-6)
    corners = (chest[:60, :60], chest[:60, -60:])
    mediastinum, lungs = chest[500:700, 480:560], (chest[400:500, 250:350], chest[350:450, 750:850])
    assert max(c.mean() for c in corners) < 0.15 < 0.6 < mediastinum.mean()
    assert max(lung.mean() for lung in lungs) < mediastinum.mean()
    for name, (center, width) in {
        'RG1_J2KI': (15000, 30000),
        'RG3_J2KI': (550, 1024),
        'RG3_J2KR': (550, 1024),
    }.items():
        stored = pydicom.dcmread(folder / f'{name}.dcm').pixel_array.astype(np.float64)
        shown = np.clip((stored - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
        np.testing.assert_allclose(images[name], 1 - shown, atol=1e-6)
    rg1 = images['RG1_J2KI']
    assert rg1[800:1100, 880:980].mean() > rg1[700:800, 400:500].mean()  # mediastinum over lung


READABLE = [
    'MR_small.dcm',
    'MR_small_RLE.dcm',
    'MR_small_bigendian.dcm',
    'MR_small_implicit.dcm',
    'MR_small_padded.dcm',
    'MR_small_jp2klossless.dcm',
    'CT_small.dcm',
    'image_dfl.dcm',
    'J2K_pixelrep_mismatch.dcm',
    'examples_overlay.dcm',
    '693_J2KI.dcm',
]
REFUSED = {
    'MR_truncated.dcm': 'cut off',
    'SC_rgb_jpeg_gdcm.dcm': '3 samples',
    'examples_palette.dcm': 'PALETTE',
    'rtdose.dcm': '15 frames',
    'rtdose_1frame.dcm': '32 bits',
    'liver_1frame.dcm': '1 bits',
    'JPGExtended.dcm': 'JPEG Extended.*pylibjpeg-libjpeg',
    'JPEG2000-embedded-sequence-delimiter.dcm': 'cannot be decoded',
    'meta_missing_tsyntax.dcm': 'no Rows',
    'no_meta.dcm': 'not a DICOM file',
    'rtplan.dcm': 'not an image',
    'DICOMDIR': 'not an image',
    'README.txt': 'not a DICOM file',
}  # fmt: skip


@pytest.mark.parametrize('name', READABLE)
def test_pydicoms_readable_files(name):
    path = get_testdata_file(name, download=False)
    pixels, ds = read_radiograph(path).pixels, pydicom.dcmread(path)
    stored = ds.pixel_array.astype(np.float64)
    # Without clipping by a window the grey is affine in the stored value.
    inside = (pixels > 0) & (pixels < 1) & (stored != ds.get('PixelPaddingValue', 1 << 20))
    slope, offset = np.polyfit(stored[inside], pixels[inside], 1)
    assert slope > 0 and pixels.std() > 0.01
    np.testing.assert_allclose(pixels[inside], slope * stored[inside] + offset, atol=1e-5)


@pytest.mark.parametrize('name', REFUSED)
def test_pydicoms_odd_files_are_refused_with_a_reason(name):
    with pytest.raises(UnreadableRadiograph, match=REFUSED[name]):
        read_radiograph(get_testdata_file(name, download=False))


@pytest.mark.filterwarnings('ignore')
def test_no_file_of_pydicom_raises_anything_else():
    folder = Path(get_testdata_file('CT_small.dcm', download=False)).parent
    decoded = 0
    for path in sorted(folder.glob('*.dcm')):
        try:
            pixels = read_radiograph(path).pixels
        except UnreadableRadiograph as error:
            assert 10 < len(str(error)) < 400 and '\n' not in str(error)
        else:
            assert pixels.dtype == np.float32 and 0 <= pixels.min() <= pixels.max() <= 1
            decoded += 1
    assert decoded >= 16
