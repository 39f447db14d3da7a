"""Small volumes in files, from voxels [z, y, x]."""

import zlib

import numpy as np

from tests.dicom_files import dataset

SPACING = (2.5, 0.5, 0.75)  # mm, z y x
ORIGIN = (-40.0, 10.0, -30.0)  # mm, z y x, of the first voxel


def write_mhd(path, voxels, turned=(), spacing=SPACING, big=False, compressed=False, **fields):
    """`turned`: axes (0 z, 1 y, 2 x) that are stored from their end, as the header says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    offset, sign = list(ORIGIN), [1, 1, 1]
    for axis in turned:
        offset[axis] += (voxels.shape[axis] - 1) * spacing[axis]
        sign[axis] = -1
    data = np.flip(voxels, turned).astype('>i2' if big else '<i2').tobytes()
    data_file = path.with_suffix('.zraw' if compressed else '.raw')
    data_file.write_bytes(zlib.compress(data) if compressed else data)
    text = {
        'ObjectType': 'Image', 'NDims': 3, 'BinaryData': 'True', 'BinaryDataByteOrderMSB': big,
        'CompressedData': compressed,
        'TransformMatrix': f'{sign[2]} 0 0 0 {sign[1]} 0 0 0 {sign[0]}',
        'Offset': numbers(offset), 'CenterOfRotation': '0 0 0', 'AnatomicalOrientation': 'RAI',
        'ElementSpacing': numbers(spacing), 'DimSize': numbers(voxels.shape),
        'ElementType': 'MET_SHORT', 'ElementDataFile': data_file.name,
    }  # fmt: skip
    lines = [f'{name} = {value}\n' for name, value in (text | fields).items()]
    path.write_text(''.join(lines))
    return path


def numbers(zyx):
    return ' '.join(map(str, zyx[::-1]))


def write_nifti(path, voxels, axes=(0, 1, 2), turned=(0, 1), spacing=SPACING, slope=None):
    """As [x, y, z] after exchanging to `axes`; NIfTI's x and y point against those of DICOM, so
    that `turned` (0, 1) stores the voxels as they are, and () stores rows and columns reversed."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = ORIGIN
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = -x, -y, z
    stored = voxels.transpose(2, 1, 0)
    for axis in {0, 1} - set(turned):
        stored = np.flip(stored, axis)
        affine[:, 3] += (stored.shape[axis] - 1) * affine[:, axis]
        affine[:, axis] *= -1
    stored, affine[:, :3] = stored.transpose(axes), affine[:, list(axes)]
    image = nibabel.Nifti1Image(stored, affine)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


def write_series(folder, voxels, names=None, modality='CT', intercept=-1024, **elements):
    """One DICOM file for each z; `names` of the files in the order of z."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f'IM{len(voxels) - z:04d}' for z in range(len(voxels))]
    for z, (name, plane) in enumerate(zip(names, voxels, strict=True)):
        ds = dataset(
            plane.astype(np.int64) - intercept, bits=16, Modality=modality,
            RescaleSlope=1, RescaleIntercept=intercept, SeriesInstanceUID='1.2.9',
            PixelSpacing=list(SPACING[1:]), ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[ORIGIN[2], ORIGIN[1], ORIGIN[0] + z * SPACING[0]],
            PatientID='Never^Shown',
        )  # fmt: skip
        for keyword, value in elements.items():
            setattr(ds, keyword, value[z] if isinstance(value, list) else value)
        ds.save_as(folder / name, enforce_file_format=True)
    return folder
