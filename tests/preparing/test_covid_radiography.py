"""COVID-19 Radiography Database: the join of names, sources, masks of another size, releases."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import covid_radiography
from data_pipelines.datasets.covid_radiography import CLASSES, TOP
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests.siim_tree import stored_records

CELL = '<c r="{}{}" t="s"><v>{}</v></c>'
SPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
RSNA = 'https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data'
CHILDREN = 'https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia'


def write_sheet(path, rows):
    """A workbook as Excel writes it: texts in a table of their own, numbers in their cells."""
    texts = sorted({cell for row in rows for cell in row})
    lines = [
        f'<row r="{n}">' + ''.join(
            CELL.format('ABCD'[k], n, texts.index(cell)) for k, cell in enumerate(row)
        ) + '</row>'
        for n, row in enumerate(rows, 1)
    ]  # fmt: skip
    strings = ''.join(f'<si><t>{text}</t></si>' for text in texts)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('xl/sharedStrings.xml', f'<sst {SPACE}>{strings}</sst>')
        sheet = f'<worksheet {SPACE}><sheetData>{"".join(lines)}</sheetData></worksheet>'
        archive.writestr('xl/worksheets/sheet1.xml', sheet)


def image(number, size=38):
    return np.random.default_rng(number).integers(0, 256, (size, size)).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """Four images of each class; the masks are smaller, and one image has three channels."""
    root = tmp_path_factory.mktemp('radiography')
    for number, name in enumerate(CLASSES):
        for k in range(1, 5):
            pixels = image(10 * number + k)
            if (number, k) == (0, 1):
                pixels = pixels[..., None].repeat(3, -1)
            save(root / TOP / name / 'images' / f'{name}-{k}.png', pixels)
            mask = np.zeros((19, 19), np.uint8)
            mask[4 : 6 + k, 3:9] = 255
            save(root / TOP / name / 'masks' / f'{name}-{k}.png', mask)
    header = ('FILE NAME', 'FORMAT', 'SIZE', 'URL')
    of_normal = [(f'NORMAL-{k}', 'PNG', '256*256', RSNA if k < 4 else CHILDREN) for k in (1, 2, 4)]
    write_sheet(root / TOP / 'Normal.metadata.xlsx', [header, *of_normal])
    of_covid = [f'COVID-{k},PNG,256*256,https://sirm.org/covid-19/' for k in range(1, 5)]
    lines = [','.join(header), *of_covid]
    (root / TOP / 'COVID.metadata.csv').write_text('\n'.join(lines))
    return root


def test_classes_and_sources(tree):
    listing = covid_radiography.list_items(tree)
    assert listing.names == CLASSES and len(listing.items) == 16
    found = {item.path.stem: item for item in listing.items}
    for name, item in found.items():
        assert CLASSES[item.labels.index(1)] == name.rpartition('-')[0] and sum(item.labels) == 1
        assert item.patient == '' and item.lung_mask.is_file()
    sources = [found[f'Normal-{k}'].source for k in range(1, 5)]
    rsna, children = 'rsna-pneumonia-detection-challenge', 'chest-xray-pneumonia'
    assert sources == [rsna, rsna, '', children]
    assert {found[f'COVID-{k}'].source for k in range(1, 5)} == {'sirm.org'}
    assert found['Lung_Opacity-1'].source == rsna
    assert found['Viral Pneumonia-1'].source == children
    assert '1 of 4 images of Normal have no row' in ' '.join(listing.notes)


def test_the_card_warns_and_masks_are_enlarged(tree, tmp_path):
    prepared = prepare('covid_radiography', tree, tmp_path, 19, processes=1)
    warned = ' '.join(prepared.card['warnings'])
    assert 'No patient id is known for 16 of 16' in warned
    assert 'The label depends on the source' in warned
    records = {r['image'].tobytes(): r for r in stored_records(prepared)}
    for number in range(4):
        for k in range(1, 5):
            # Two by two pixels of the image to one of the prepared image, and one of the mask.
            pixels = image(10 * number + k).reshape(19, 2, 19, 2).mean((1, 3))
            exact = np.rint(pixels * np.float32(1) / np.float32(255) * 255)
            [record] = [
                r for r in records.values() if abs(r['image'][..., 0] - exact).max() <= 1
            ]
            mask = np.zeros((19, 19))
            mask[4 : 6 + k, 3:9] = 1
            np.testing.assert_array_equal(record['lung_mask'][..., 0], mask)


def test_an_older_release(tmp_path):
    """No level images/, no masks, no Lung_Opacity, NORMAL in capitals, no tables."""
    for name in ('COVID', 'NORMAL', 'Viral Pneumonia'):
        save(tmp_path / name / f'{name} (1).png', image(1))
    (tmp_path / 'NORMAL' / '._NORMAL (1).png').write_bytes(b'')
    listing = covid_radiography.list_items(tmp_path)
    assert listing.names == ('COVID', 'Normal', 'Viral Pneumonia')
    assert [item.labels for item in listing.items] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert {item.lung_mask for item in listing.items} == {None}
    assert 'Normal.metadata.xlsx is missing' in ' '.join(listing.notes)
    (tmp_path / 'COVID').rename(tmp_path / 'other')
    (tmp_path / 'NORMAL').rename(tmp_path / 'another')
    with pytest.raises(UserError, match='holds Viral Pneumonia of the folders COVID'):
        covid_radiography.list_items(tmp_path)


def test_a_sheet_that_is_none(tree, tmp_path):
    for name in ('COVID', 'Normal'):
        save(tmp_path / name / f'{name}-1.png', image(1))
    (tmp_path / 'Normal.metadata.xlsx').write_bytes(b'no workbook')
    with pytest.raises(UserError, match='cannot be read as an Excel workbook'):
        covid_radiography.list_items(tmp_path)
    write_sheet(tmp_path / 'Normal.metadata.xlsx', [('FILE', 'URL')])
    with pytest.raises(UserError, match=r"lacks the columns \['FILE NAME'\]"):
        covid_radiography.list_items(tmp_path)
