"""Grey values: each DICOM pitfall against the standard's formula written out anew, and pydicom."""

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from data_pipelines.raw.dicom import UnreadableRadiograph, read_radiograph
from tests.dicom_files import dataset

RNG = np.random.default_rng(17)
RAMP = np.arange(4096).reshape(64, 64)


def read(folder, stored, bits=12, **elements):
    path = folder / 'image.dcm'
    dataset(stored, bits, **elements).save_as(path, enforce_file_format=True)
    return read_radiograph(path).pixels


def lut(entries, start, bits, vr='US'):
    item = Dataset()
    item.add_new('LUTDescriptor', 'SS' if start < 0 else 'US', [len(entries) % 65536, start, bits])
    value = np.asarray(entries, '<u2' if bits > 8 or vr == 'US' else 'u1')
    item.add_new('LUTData', vr, list(map(int, value)) if vr == 'US' else value.tobytes())
    return Sequence([item])


@pytest.mark.parametrize(
    'bits, signed, lowest, highest, zero, one',
    [
        (12, 0, 0, 3000, 0, 4095),
        (12, 0, 900, 1500, 0, 4095),  # not the data's own range
        (15, 0, 0, 20000, 0, 32767),
        (16, 0, 0, 3000, 0, 4095),  # 16 bits declared, 12 used
        (16, 0, 0, 70, 0, 255),
        (8, 0, 0, 20, 0, 255),
        (12, 1, -2000, 1500, -2048, 2047),
        (16, 1, -700, 400, -1024 * 2, 1024 * 2 - 1),
        (12, 1, 0, 2000, 0, 2047),
        (16, 1, 0, 3000, 0, 4095),
    ],
)
@pytest.mark.parametrize('slope, intercept', [(None, None), (2.5, -1024), (-1, 4000)])
def test_without_window_the_range_is_that_of_the_depth(
    tmp_path, bits, signed, lowest, highest, zero, one, slope, intercept
):
    stored = RNG.integers(lowest, highest, (5, 7), endpoint=True)
    stored.flat[:2] = lowest, highest
    elements = {'RescaleSlope': slope, 'RescaleIntercept': intercept} if slope else {}
    pixels = read(tmp_path, stored, bits, PixelRepresentation=signed, **elements)
    expected = (stored - zero) / (one - zero)
    np.testing.assert_allclose(pixels, 1 - expected if slope == -1 else expected, atol=1e-6)


def windowed(x, center, width, function):
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3, for one value, output 0 to 1."""
    if function == 'SIGMOID':
        return 1 / (1 + np.exp(-4 * (x - center) / width))
    if function == 'LINEAR_EXACT':
        if x <= center - width / 2:
            return 0.0
        return 1.0 if x > center + width / 2 else (x - center) / width + 0.5
    if x <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if x > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (center - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize('function', [None, 'LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize(
    'center, width', [(2000, 1500), (2048, 4096), (700.5, 1), ([9, 80], [2, 7])]
)
@pytest.mark.parametrize('slope', [1, 0.5])
def test_windows(tmp_path, function, center, width, slope):
    elements = {'WindowCenter': center, 'WindowWidth': width, 'RescaleSlope': slope}
    elements |= {'RescaleIntercept': -10} | ({'VOILUTFunction': function} if function else {})
    ds = dataset(RAMP, **elements)
    pixels = read(tmp_path, RAMP, **elements)
    center, width = np.atleast_1d(center)[0], np.atleast_1d(width)[0]
    modality = RAMP * slope - 10
    with np.errstate(over='ignore'):
        expected = [windowed(x, center, width, function) for x in modality.ravel()]
    np.testing.assert_allclose(pixels.ravel(), expected, atol=1e-6)
    if width > 1:
        lowest, highest = -10, 4095 * slope - 10
        theirs = (apply_voi_lut(apply_modality_lut(RAMP, ds), ds) - lowest) / (highest - lowest)
        np.testing.assert_allclose(pixels, theirs, atol=1e-6)


@pytest.mark.parametrize('center, width', [(100, 0), (100, None), (None, 50), ('', '')])
def test_an_invalid_window_is_left_out(tmp_path, center, width):
    elements = {'WindowCenter': center, 'WindowWidth': width, 'VOILUTFunction': 'LINEAR'}
    if center == '':
        pixels = read(tmp_path, RAMP, **elements)
    else:
        with pytest.warns(UserWarning, match='not a window'):
            pixels = read(tmp_path, RAMP, **elements)
    np.testing.assert_allclose(pixels, RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize('vr', ['US', 'OW'])
@pytest.mark.parametrize('bits', [8, 12])
def test_voi_lut_comes_before_the_window(tmp_path, vr, bits):
    """8-bit entries in OW lie two to a word (PS3.3 C.11.2.1.1); pydicom's 8-bit LUTs overflow."""
    entries = np.round((2**bits - 1) * np.linspace(0, 1, 3000) ** 2).astype(int)
    elements = {'VOILUTSequence': lut(entries, 500, bits, vr), 'WindowCenter': 9, 'WindowWidth': 9}
    pixels = read(tmp_path, RAMP, **elements)
    expected = [entries[min(max(x - 500, 0), 2999)] / (2**bits - 1) for x in RAMP.ravel()]
    np.testing.assert_allclose(pixels.ravel(), expected, atol=1e-6)
    if bits == 12:
        theirs = apply_voi_lut(RAMP.astype(np.uint16), dataset(RAMP, **elements))
        np.testing.assert_allclose(pixels, theirs / (2**bits - 1), atol=1e-6)


def test_voi_lut_with_a_negative_start_and_an_overstated_depth(tmp_path):
    entries = np.linspace(0, 4095, 2048).astype(int)  # 16 bits declared, 12 used
    elements = {'VOILUTSequence': lut(entries, -1024, 16), 'RescaleSlope': 1}
    pixels = read(tmp_path, RAMP, RescaleIntercept=-1024, **elements)
    np.testing.assert_allclose(pixels, entries[np.minimum(RAMP, 2047)] / 4095, atol=1e-6)


def test_modality_lut_then_window(tmp_path):
    entries = np.linspace(65535, 0, 4096).astype(int)
    modality = {'ModalityLUTSequence': lut(entries, 0, 16)}
    np.testing.assert_allclose(read(tmp_path, RAMP, **modality), entries[RAMP] / 65535, atol=1e-6)
    pixels = read(tmp_path, RAMP, WindowCenter=30000, WindowWidth=20000, **modality)
    expected = [windowed(x, 30000, 20000, 'LINEAR') for x in entries]
    np.testing.assert_allclose(pixels.ravel(), expected, atol=1e-6)
    del modality['ModalityLUTSequence'][0].LUTData
    with pytest.raises(UnreadableRadiograph, match='modality LUT'):
        read(tmp_path, RAMP, **modality)


def test_a_broken_voi_lut_warns_and_the_window_serves(tmp_path):
    sequence = lut([1, 2, 3], 0, 12)
    sequence[0].LUTDescriptor = [900, 0, 12]
    with pytest.warns(UserWarning, match='VOI LUT cannot be read'):
        pixels = read(tmp_path, RAMP, VOILUTSequence=sequence, WindowCenter=99, WindowWidth=50)
    assert pixels.ravel()[70] == 0 and pixels.ravel()[130] == 1


@pytest.mark.parametrize('window', [{}, {'WindowCenter': 900, 'WindowWidth': 500}])
def test_monochrome1_is_the_inverse_on_the_known_range(tmp_path, window):
    stored = RNG.integers(300, 2500, (9, 9))
    normal = read(tmp_path, stored, **window)
    inverse = read(tmp_path, stored, PhotometricInterpretation='MONOCHROME1', **window)
    np.testing.assert_allclose(normal + inverse, 1, atol=1e-6)
    if not window:
        np.testing.assert_allclose(inverse, (4095 - stored) / 4095, atol=1e-6)


def test_presentation_lut_shape_does_not_invert_again(tmp_path):
    once = read(tmp_path, RAMP, PhotometricInterpretation='MONOCHROME1')
    np.testing.assert_allclose(once, 1 - RAMP / 4095, atol=1e-6)
    for photometric, shape, contradicts in [
        ('MONOCHROME1', 'INVERSE', False),
        ('MONOCHROME2', 'IDENTITY', False),
        ('MONOCHROME1', 'IDENTITY', True),
        ('MONOCHROME2', 'INVERSE', True),
    ]:
        path = tmp_path / 'shape.dcm'
        elements = {'PhotometricInterpretation': photometric, 'PresentationLUTShape': shape}
        dataset(RAMP, **elements).save_as(path, enforce_file_format=True)
        if contradicts:
            with pytest.warns(UserWarning, match='contradicts'):
                radiograph = read_radiograph(path)
        else:
            radiograph = read_radiograph(path)
        assert len(radiograph.header['warnings']) == contradicts
        expected = once if photometric == 'MONOCHROME1' else 1 - once
        np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)


@pytest.mark.parametrize('signed', [0, 1])
def test_only_the_stored_bits_count(tmp_path, signed):
    stored = RNG.integers(-2048 * signed, 4096 - 2048 * signed, (16, 16))
    clean = read(tmp_path, stored, PixelRepresentation=signed)
    np.testing.assert_allclose(clean, (stored + 2048 * signed) / 4095, atol=1e-6)
    overlay = (stored & 0xFFF) | RNG.integers(0, 16, stored.shape) << 12
    np.testing.assert_array_equal(read(tmp_path, overlay, PixelRepresentation=signed), clean)
    shifted = (stored & 0xFFF) << 4 | RNG.integers(0, 16, stored.shape)
    elements = {'HighBit': 15, 'PixelRepresentation': signed}
    np.testing.assert_array_equal(read(tmp_path, shifted, **elements), clean)
    rle = dataset(shifted, **elements)
    rle.compress(uid.RLELossless, encoding_plugin='pydicom')
    rle.save_as(tmp_path / 'rle.dcm', enforce_file_format=True)
    np.testing.assert_array_equal(read_radiograph(tmp_path / 'rle.dcm').pixels, clean)


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize(
    'bits, signed, vr, value, limit, padded',
    [
        (16, 0, 'US', 65535, None, [65535]),  # would have made the range 16 bits
        (12, 0, 'US', 0, None, [0]),
        (16, 0, 'US', 65535, 60000, [60000, 61234, 65535]),
        (16, 1, 'SS', -2000, None, [-2000]),
        (16, 1, 'US', 65536 - 2000, None, [-2000]),  # written with the wrong sign
        (16, 1, 'SS', -3000, -2000, [-3000, -2500, -2000]),
        (12, 0, 'US', 65535, None, [65535]),  # outside the stored bits: 4095 stays image
    ],
)
def test_padding_is_background(tmp_path, photometric, bits, signed, vr, value, limit, padded):
    stored = RNG.integers(100, 3000, (12, 12))
    stored[0, :2] = 2999, 4095
    clean = read(
        tmp_path, stored, bits, PhotometricInterpretation=photometric, PixelRepresentation=signed
    )
    stored[5, : len(padded)] = padded
    ds = dataset(stored, bits, PhotometricInterpretation=photometric, PixelRepresentation=signed)
    ds.add_new('PixelPaddingValue', vr, value)
    if limit is not None:
        ds.add_new('PixelPaddingRangeLimit', vr, limit)
    ds.save_as(tmp_path / 'padded.dcm', enforce_file_format=True)
    expected = clean.copy()
    expected[5, : len(padded)] = 0
    np.testing.assert_array_equal(read_radiograph(tmp_path / 'padded.dcm').pixels, expected)
