"""Small DICOM datasets for the tests."""

from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset


def dataset(stored, bits=12, syntax=uid.ExplicitVRLittleEndian, **elements):
    """A dataset of `stored`; integers keep the words they are given, signed ones wrap."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = '1.2.840.10008.5.1.4.1.1.1'
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = '1.2.3.4'
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    order = '>' if syntax == uid.ExplicitVRBigEndian else '<'
    data = (stored & (1 << ds.BitsAllocated) - 1).astype(f'{order}u{ds.BitsAllocated // 8}')
    ds.PixelData = data.tobytes() + b'\0' * (data.nbytes % 2)
    ds['PixelData'].VR = 'OW' if bits > 8 else 'OB'
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds
