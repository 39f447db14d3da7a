"""DICOM files as written, and an image folder in the competition's layout."""
import ast
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_pipelines.raw.dicom import read_image_file, read_radiograph
from data_pipelines.raw.dicom_write import Storage, stored_values, write_dicom
from scripts.write_siim_layout import main as write_layout_main


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('syntax', ['uncompressed', 'rle', 'jpeg_lossless', 'jpeg_2000'])
@pytest.mark.parametrize('bits', [10, 12, 14])
def test_dicom_files_decode_to_the_values_written(syntax, bits, tmp_path):
    values = np.random.default_rng(bits).random((41, 36)).astype(np.float32)
    values[0, :2] = 0, 1
    for signed in (False, True):
        for monochrome1, window in ((False, (0.0, 1.0)), (True, (0.2, 0.7)), (True, None)):
            storage = Storage(bits, monochrome1, signed, syntax, window)
            path = tmp_path / 'image.dcm'
            write_dicom(path, values, storage, {'SOPInstanceUID': '0123456789ab'})
            ds = pydicom.dcmread(path)
            stored = ds.pixel_array
            np.testing.assert_array_equal(stored, stored_values(values, storage))
            rescaled = stored * float(ds.get('RescaleSlope', 1)) + float(
                ds.get('RescaleIntercept', 0)
            )
            # PS3.3 C.11.2.1.2.1, written out; without a window the whole stored range.
            c = float(ds.get('WindowCenter', 2 ** (bits - 1)))
            w = float(ds.get('WindowWidth', 2**bits))
            shown = (rescaled - (c - 0.5)) / (w - 1) + 0.5
            if ds.PhotometricInterpretation == 'MONOCHROME1':
                shown = 1 - shown
            np.testing.assert_allclose(shown, values, atol=0.51 / (w - 1))


@pytest.fixture
def image_folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path / 'folder'
    rows, boxes = [], []
    for index in range(24):
        name = ('normal', 'sick', 'other')[index % 3]
        path = root / 'images' / name / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50), np.uint8)
        pixels[0, :2] = 0, 255
        Image.fromarray(pixels).save(path)
        mask = root / 'lung_masks' / f'{index}.png'
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(255) * (pixels > 99)).save(mask)
        file = path.relative_to(root).as_posix()
        rows.append([file, name, f'p{index // 2}', 'F', 40 + index, 'PA', 'here',
                     f'lung_masks/{index}.png'])  # fmt: skip
        if name == 'sick':
            boxes.append([file, 'opacity', 3.5, 4, 10, 12.25])
    for name, header, content in (
        ('metadata', 'file,label,patient,sex,age,view,source,lung_mask', rows),
        ('lesion_boxes', 'file,finding,x,y,w,h', boxes),
    ):
        lines = [header, *(','.join(map(str, row)) for row in content)]
        (root / f'{name}.csv').write_text('\n'.join(lines) + '\n')
    return root


def test_a_folder_in_the_competitions_layout_keeps_its_pixels(image_folder, tmp_path):
    out = tmp_path / 'siim'
    arguments = [str(image_folder), str(out), '--map', 'normal=negative,sick=atypical']
    assert write_layout_main(arguments) == 0
    sources = {}
    for row in table(image_folder / 'metadata.csv'):
        pixels = read_image_file(image_folder / row['file']).pixels
        sources[np.rint(pixels * 255).astype(np.uint8).tobytes()] = row, pixels
    stored, labels = set(), {}
    for row in table(out / 'train_study_level.csv'):
        flags = list(row.values())[1:]
        labels[row['id'].removesuffix('_study')] = flags.index('1')
    listed = table(out / 'train_image_level.csv')
    assert len(listed) == 16 and Counter(labels.values()) == {0: 8, 3: 8}
    for line in listed:
        (path,) = out.glob(f'train/*/*/{line["id"].removesuffix("_image")}.dcm')
        read = read_radiograph(path)
        row, pixels = sources[np.rint(read.pixels * 255).astype(np.uint8).tobytes()]
        assert np.abs(read.pixels - pixels).max() < 0.51 / 4095
        header = read.header
        found = [header[key] for key in ('patient_id', 'sex', 'age', 'view', 'source')]
        assert found == [row['patient'], row['sex'], float(row['age']), row['view'], row['source']]
        assert labels[line['StudyInstanceUID']] == {'normal': 0, 'sick': 3}[row['label']]
        mask = np.asarray(Image.open(out / 'lung_masks' / f'{path.stem}.png'))
        np.testing.assert_array_equal(mask, 255 * (np.rint(pixels * 255) > 99))
        if row['label'] == 'sick':
            assert ast.literal_eval(line['boxes']) == [
                {'x': 3.5, 'y': 4.0, 'width': 10.0, 'height': 12.25}
            ]
        stored.add((header['photometric'], header['transfer_syntax']))
    assert len(stored) > 2


def test_a_wrong_map_is_explained(image_folder, tmp_path, capsys):
    for mapping, word in (('normal=healthy', 'healthy'), ('absent=typical', 'absent')):
        code = write_layout_main([str(image_folder), str(tmp_path / 'x'), '--map', mapping])
        assert code == 2 and word in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_a_folder_with_several_findings_an_image_is_refused(image_folder, tmp_path, capsys):
    """Without class folders, labels of several names are findings."""
    csv_file = image_folder / 'metadata.csv'
    text = csv_file.read_text().replace(',sick,', ',sick|other,')
    for path in list((image_folder / 'images').glob('*/*.png')):
        text = text.replace(f'images/{path.parent.name}/{path.name}', f'images/{path.name}')
        path.rename(path.parents[1] / path.name)
    for folder in (image_folder / 'images').glob('*/'):
        folder.rmdir()
    csv_file.write_text(text)
    code = write_layout_main([str(image_folder), str(tmp_path / 'x'), '--map', 'normal=typical'])
    err = capsys.readouterr().err
    assert code == 2 and 'several findings an image' in err, err
    assert not (tmp_path / 'x').exists()
