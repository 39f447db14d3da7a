"""DICOM files of all kinds are read alike, or refused with a reason and no other exception."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.pixels import get_decoder

from data_pipelines.raw import dicom_pixels
from data_pipelines.raw.dicom import UnreadableRadiograph, read_radiograph
from tests.dicom_files import dataset

RNG = np.random.default_rng(18)


# gdcm's encoder aborts the process on some data.
ENCODERS = {uid.RLELossless: 'pydicom', uid.JPEG2000Lossless: 'pylibjpeg'}


def save(path, ds):
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('first', ['', 'pydicom', 'pylibjpeg'])
def test_whichever_decoder_is_installed_the_words_are_the_same(tmp_path, monkeypatch, bits, first):
    """'' is none of those in the table: then pydicom chooses."""
    assert set(dicom_pixels._PLUGINS[uid.RLELossless]) == {'pydicom', 'pylibjpeg'}
    monkeypatch.setitem(dicom_pixels._PLUGINS, uid.RLELossless, (first,))
    stored = np.repeat(RNG.integers(0, 1 << bits, (33, 9)), 5, axis=1)  # runs
    stored[0, 0] = (1 << bits) - 1
    ds = dataset(stored, bits)
    ds.compress(uid.RLELossless, encoding_plugin='pydicom')
    found = read_radiograph(save(tmp_path / 'image.dcm', ds)).pixels
    np.testing.assert_allclose(found, stored / ((1 << bits) - 1), atol=1e-6)


def test_the_table_names_decoders_that_pydicom_knows_the_reference_among_them():
    for syntax, plugins in dicom_pixels._PLUGINS.items():
        decoder = get_decoder(syntax)
        known = {*decoder.available_plugins, *(m.split()[0] for m in decoder.missing_dependencies)}
        assert set(plugins) <= known and set(plugins) & set(decoder.available_plugins)


@pytest.mark.parametrize('bits', [8, 12])
@pytest.mark.parametrize('vr', ['OB', 'OW'])
@pytest.mark.parametrize(
    'syntax',
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
    ],
)
def test_lossless_syntaxes_agree(tmp_path, syntax, bits, vr):
    stored = RNG.integers(0, 1 << bits, (65, 71))
    stored[0, 0] = (1 << bits) - 1
    native = syntax if not syntax.is_encapsulated else uid.ExplicitVRLittleEndian
    ds = dataset(stored, bits, syntax=native)
    if syntax.is_encapsulated:
        ds.compress(syntax, encoding_plugin=ENCODERS[syntax])
    elif bits == 8 and vr == 'OW':
        words = np.frombuffer(ds.PixelData, '<u2')
        ds.PixelData = words.astype('>u2' if syntax == uid.ExplicitVRBigEndian else '<u2').tobytes()
        ds['PixelData'].VR = 'OW'
    ds.save_as(tmp_path / 'image.dcm', enforce_file_format=True)
    radiograph = read_radiograph(tmp_path / 'image.dcm')
    np.testing.assert_allclose(radiograph.pixels, stored / ((1 << bits) - 1), atol=1e-6)
    assert radiograph.header['transfer_syntax'] == syntax.name


@pytest.mark.parametrize(
    'name', ['JPEGLosslessProcess14_1', 'JPEGLosslessProcess14', 'JPEGLSLossless']
)
def test_lossless_jpeg_of_gdcm(tmp_path, name):
    gdcm = pytest.importorskip('gdcm')
    stored = RNG.integers(0, 4096, (64, 48))
    source, target = str(tmp_path / 'image.dcm'), str(tmp_path / 'jpeg.dcm')
    save(source, dataset(stored))
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(source)
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(target)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID.is_encapsulated
    pixels = read_radiograph(target).pixels
    np.testing.assert_array_equal(pixels, read_radiograph(source).pixels)

    # gdcm aborts the process on each of these: sample precision, next marker after the frame
    whole = bytearray(Path(target).read_bytes())
    frame = whole.index(b'\xff\xd8\xff') + 2
    for offset in (4, 13):
        damaged = whole.copy()
        damaged[frame + offset] = 131
        Path(target).write_bytes(damaged)
        with pytest.raises(UnreadableRadiograph, match='JPEG stream is damaged'):
            read_radiograph(target)


CHANGES = {
    'samples per pixel': {'SamplesPerPixel': 3, 'PhotometricInterpretation': 'RGB'},
    'PALETTE COLOR': {'PhotometricInterpretation': 'PALETTE COLOR'},
    'interpretation missing': {'PhotometricInterpretation': None},
    '7 frames': {'NumberOfFrames': 7},
    'no Rows and Columns': {'Rows': None},
    '32 are not supported': {'BitsAllocated': 32},
    '24 bits stored': {'BitsStored': 24},
    'cut off: 320 of 340': {'Rows': 17},
    'pixel data': {'PixelData': None},
}


@pytest.mark.parametrize('reason', CHANGES)
def test_refusals_say_why(tmp_path, reason):
    ds = dataset(RNG.integers(0, 4096, (16, 20)), PatientName='DOE^JANE', PatientID='4711')
    for keyword, value in CHANGES[reason].items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with pytest.raises(UnreadableRadiograph, match=reason) as raised:
        read_radiograph(save(tmp_path / 'image.dcm', ds))
    assert '\n' not in str(raised.value)
    assert 'DOE' not in str(raised.value) and '4711' not in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_float_pixels_and_other_files_are_refused(tmp_path):
    ds = dataset(np.zeros((4, 4), int))
    del ds.PixelData
    ds.FloatPixelData = bytes(64)
    with pytest.raises(UnreadableRadiograph, match='floating-point'):
        read_radiograph(save(tmp_path / 'float.dcm', ds))
    for content in (b'', b'no image', bytes(500), b'\x02\x00' * 300):
        (tmp_path / 'other.dcm').write_bytes(content)
        with pytest.raises(UnreadableRadiograph):
            read_radiograph(tmp_path / 'other.dcm')
    with pytest.raises(UnreadableRadiograph, match='No such file'):
        read_radiograph(tmp_path / 'absent.dcm')


def test_unknown_syntax_and_missing_decoder(tmp_path, monkeypatch):
    ds = dataset(RNG.integers(0, 4096, (64, 64)))
    ds.compress(uid.JPEG2000Lossless, encoding_plugin='pylibjpeg')
    ds.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    with pytest.raises(UnreadableRadiograph, match='MPEG2 Main Profile.* is not supported'):
        read_radiograph(save(tmp_path / 'mpeg.dcm', ds))
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    path = save(tmp_path / 'image.dcm', ds)
    content = path.read_bytes()
    for syntax in (b'1.2.840.10008.1.2.4.99', b'1.2.840.113619.5.2.999'):
        (tmp_path / 'unknown.dcm').write_bytes(content.replace(b'1.2.840.10008.1.2.4.90', syntax))
        with pytest.raises(UnreadableRadiograph, match='unknown transfer syntax 1.2.840'):
            read_radiograph(tmp_path / 'unknown.dcm')
    native = content.replace(b'1.2.840.10008.1.2.4.90', b'1.2.840.10008.1.2.1\0\0\0')
    (tmp_path / 'native.dcm').write_bytes(native)
    with pytest.raises(UnreadableRadiograph, match='no transfer syntax says how'):
        read_radiograph(tmp_path / 'native.dcm')

    class Decoder:
        is_available = False
        missing_dependencies = ('gdcm - requires python-gdcm',)

    monkeypatch.setattr(dicom_pixels, 'get_decoder', lambda syntax: Decoder)
    with pytest.raises(UnreadableRadiograph, match='no decoder for JPEG 2000.*python-gdcm'):
        read_radiograph(path)


@pytest.mark.filterwarnings('ignore')
def test_a_decoder_that_panics_refuses_the_file_and_an_interrupt_passes(tmp_path, monkeypatch):
    class Panic(BaseException):
        """As a decoder written in Rust raises."""

    ds = dataset(RNG.integers(0, 4096, (16, 20)))
    ds.compress(uid.RLELossless, encoding_plugin='pydicom')
    path = save(tmp_path / 'image.dcm', ds)
    for raised, expected in ((Panic, UnreadableRadiograph), (KeyboardInterrupt,) * 2):
        monkeypatch.setattr(dicom_pixels, 'pixel_array', Mock(side_effect=raised))
        with pytest.raises(expected):
            read_radiograph(path)


@pytest.mark.parametrize('syntax', [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_damaged_files_never_raise_anything_else(tmp_path, syntax):
    ds = dataset(RNG.integers(0, 4096, (16, 20)), WindowCenter=2000, WindowWidth=1000)
    if syntax.is_encapsulated:
        ds.compress(syntax, encoding_plugin=ENCODERS[syntax])
    content = save(tmp_path / 'whole.dcm', ds).read_bytes()
    path = tmp_path / 'damaged.dcm'
    end = len(content) - 8 * syntax.is_encapsulated
    for length in range(0, end, 13):
        path.write_bytes(content[:length])
        with pytest.raises(UnreadableRadiograph):
            read_radiograph(path)
    for _ in range(300):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[RNG.integers(128, 700, 3)] = RNG.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            pixels = read_radiograph(path).pixels
        except UnreadableRadiograph:
            continue
        assert pixels.min() >= 0 and pixels.max() <= 1


def test_header(tmp_path):
    ds = dataset(
        np.zeros((4, 4), int),
        PatientID='p1',
        StudyInstanceUID='1.2.3',
        PatientSex='F',
        PatientAge='018M',
        ViewPosition='AP ',
        InstitutionName='Site A',
        PixelSpacing=[0.2, 0.1],
        ImagerPixelSpacing=[0.3, 0.3],
    )
    header = read_radiograph(save(tmp_path / 'image.dcm', ds)).header
    assert header == {
        'patient_id': 'p1',
        'study_uid': '1.2.3',
        'image_uid': '1.2.3.4',
        'source': 'Site A',
        'sex': 'F',
        'view': 'AP',
        'age': 1.5,
        'spacing': (0.2, 0.1),
        'bits': 12,
        'transfer_syntax': 'Explicit VR Little Endian',
        'photometric': 'MONOCHROME2',
        'warnings': (),
    }
    ds.PixelSpacing, ds.PatientAge, ds.PatientSex, ds.ViewPosition = [0, 0], '000Y', 'O', 'LL'
    header = read_radiograph(save(tmp_path / 'image.dcm', ds)).header
    assert header['spacing'] == (0.3, 0.3) and np.isnan(header['age'])
    assert (header['sex'], header['view']) == ('', '')
    for keyword in ('PatientID', 'ImagerPixelSpacing', 'PatientAge', 'InstitutionName'):
        delattr(ds, keyword)
    header = read_radiograph(save(tmp_path / 'image.dcm', ds)).header
    assert header['patient_id'] == header['source'] == '' and np.isnan(header['spacing']).all()
