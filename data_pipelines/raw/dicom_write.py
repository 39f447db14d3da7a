"""Write one grey-scale radiograph as a DICOM file (PS3.3 A.26, Digital X-Ray for presentation)."""
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    'uncompressed': ExplicitVRLittleEndian,
    'rle': RLELossless,
    'jpeg_lossless': JPEGLosslessSV1,
    'jpeg_ls': JPEGLSLossless,
    'jpeg_2000': JPEG2000Lossless,
}


@dataclass(frozen=True)
class Storage:
    """How display values in [0, 1] become stored integers of 16 allocated bits.

    `window` is the part (low, high) of the stored range that the values span; the file then
    carries the WindowCenter and WindowWidth that lead back to [0, 1]. None: the values span the
    whole range and no window is written. `signed` stores two's complement with a
    RescaleIntercept that makes the rescaled values start at 0.
    """

    bits: int = 12
    monochrome1: bool = False
    signed: bool = False
    syntax: str = 'uncompressed'
    window: tuple[float, float] | None = (0.0, 1.0)


def stored_values(values: np.ndarray, storage: Storage) -> np.ndarray:
    """Display values [H, W] in [0, 1], bright = dense, to stored integers (uint16 or int16)."""
    top = 2**storage.bits - 1
    low, high = storage.window or (0.0, 1.0)
    shown = 1 - values if storage.monochrome1 else values
    levels = np.rint((low + (high - low) * np.clip(shown, 0, 1)) * top)
    if storage.signed:
        return (levels - 2 ** (storage.bits - 1)).astype(np.int16)
    return levels.astype(np.uint16)


def window_tags(storage: Storage) -> tuple[float, float]:
    """(WindowCenter, WindowWidth) of the LINEAR function, which maps c - 0.5 to the middle and
    spans w - 1 (PS3.3 C.11.2.1.2.1); in rescaled values."""
    top = 2**storage.bits - 1
    low, high = storage.window
    return top * (low + high) / 2 + 0.5, top * (high - low) + 1


def _compress(pixels: np.ndarray, storage: Storage) -> bytes:
    import gdcm  # encodes JPEG lossless and JPEG-LS; needless for uncompressed files

    writer = gdcm.ImageWriter()  # owns the image: it must stay in scope
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixels.shape[1], pixels.shape[0], 1))
    grey = gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    image.SetPhotometricInterpretation(grey)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    image.SetPixelFormat(
        gdcm.PixelFormat(1, 16, storage.bits, storage.bits - 1, int(storage.signed))
    )
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(pixels.astype(pixels.dtype.newbyteorder('<')).tobytes())
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    target = gdcm.TransferSyntax.GetTSType(str(SYNTAXES[storage.syntax]))
    change.SetTransferSyntax(gdcm.TransferSyntax(target))
    change.SetInput(image)
    if not change.Change():
        raise RuntimeError(f'gdcm cannot encode {pixels.shape} as {storage.syntax}')
    parts = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    buffers = (
        parts.GetFragment(i).GetByteValue().GetBuffer()
        for i in range(parts.GetNumberOfFragments())
    )
    return b''.join(b.encode('utf-8', 'surrogateescape') for b in buffers)


def _describe_pixels(ds: Dataset, shape: tuple[int, int], storage: Storage) -> None:
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = 'MONOCHROME1' if storage.monochrome1 else 'MONOCHROME2'
    ds.Rows, ds.Columns = shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, storage.bits, storage.bits - 1
    ds.PixelRepresentation = int(storage.signed)
    if storage.signed:
        ds.RescaleIntercept, ds.RescaleSlope = 2 ** (storage.bits - 1), 1
        ds.RescaleType = 'US'
    if storage.window is not None:
        center, width = window_tags(storage)
        ds.WindowCenter, ds.WindowWidth = round(center, 4), round(width, 4)


def write_dicom(path: Path, values: np.ndarray, storage: Storage, header: dict) -> None:
    """Write display values [H, W] in [0, 1] to `path`, atomically.

    `header` holds DICOM keywords and their values (PatientID, StudyInstanceUID, ...) and must
    name SOPInstanceUID. Ids that are no dotted UIDs, as in SIIM-FISABIO-RSNA, are accepted.
    """
    pixels = stored_values(values, storage)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.TransferSyntaxUID = SYNTAXES[storage.syntax]
    ds = Dataset()
    ds.file_meta = meta
    temporary = path.with_name(f'.{path.name}.tmp')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Invalid value for VR UI')
        meta.MediaStorageSOPInstanceUID = header['SOPInstanceUID']
        ds.SOPClassUID = DigitalXRayImageStorageForPresentation
        for keyword, value in header.items():
            setattr(ds, keyword, value)
        _describe_pixels(ds, pixels.shape, storage)
        if storage.syntax == 'uncompressed':
            ds.PixelData = pixels.astype(pixels.dtype.newbyteorder('<')).tobytes()
        else:
            ds.PixelData = encapsulate([_compress(pixels, storage)])
        ds['PixelData'].VR = 'OW'
        ds.save_as(temporary, enforce_file_format=True)
    os.replace(temporary, path)
