"""NIH ChestX-ray14: tables by position, official lists, boxes, copies that are not complete."""

import math

import pytest

from data_pipelines.datasets import nih14, tables
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared.data import SPLITS
from tests.datasets.trees import by_name, shown, write_image, write_table

HEADER = (
    'Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,'
    'OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]'
)
ROWS = [  # image, labels, patient, age, sex, view
    ('00000001_000', 'Cardiomegaly', '1', '058Y', 'M', 'PA'),
    ('00000001_001', 'Cardiomegaly|Emphysema', '1', '059Y', 'M', 'PA'),
    ('00000002_000', 'No Finding', '2', '414Y', 'F', 'AP'),
    ('00000003_000', 'Infiltration|Pleural_Thickening|Hernia', '3', '018M', 'F', 'PA'),
    ('00000004_000', 'No Finding', '4', '0', 'M', 'PA'),
    ('00000005_000', 'Mass|Nodule', '5', '82', 'F', 'AP'),
]
FOLLOW_UP = {'00000001_001': '1'}
TEST = ('00000003_000', '00000005_000')
BOXES = [
    'Image Index,Finding Label,Bbox [x,y,w,h],,,',
    '00000003_000.png,Infiltrate,225.08,547.01,86.77,79.18,,,',
    '00000003_000.png,Hernia,1.5,2.5,3.0,4.0,,,',
    '00000001_000.png,Cardiomegaly,5,6,7,8',
]


def write_tree(root, flat=False, trailing='', table='Data_Entry_2017.csv', rows=ROWS):
    lines = [
        f'{image}.png,{labels},{FOLLOW_UP.get(image, 0)},{patient},{age},{sex},{view},2682,2749,'
        f'0.143,0.143{trailing}'
        for image, labels, patient, age, sex, view in rows
    ]
    write_table(root / table, [HEADER + trailing, *lines])
    for k, (image, *_) in enumerate(rows):
        folder = 'images' if flat else f'images_{1 + k % 2:03d}/images'
        write_image(root / folder / f'{image}.png', k)
    names = [image for image, *_ in rows]
    write_table(root / 'train_val_list.txt', [f'{n}.png' for n in names if n not in TEST])
    write_table(root / 'test_list.txt', [f'{n}.png' for n in names if n in TEST])
    write_table(root / 'BBox_List_2017.csv', BOXES)


def test_both_releases_say_the_same(tmp_path):
    write_tree(tmp_path / 'first', trailing=',')
    write_tree(tmp_path / 'second', flat=True, table='Data_Entry_2017_v2020.csv')
    listings = [nih14.list_items(tmp_path / name) for name in ('first', 'second')]
    first, second = ({k: v.labels for k, v in by_name(each).items()} for each in listings)
    assert first == second and len(first) == 6
    listing = listings[0]
    items = by_name(listing)
    assert listing.names == nih14.FINDINGS and len(listing.names) == 14 and not listing.exclusive
    assert {name: shown(listing, item) for name, item in items.items()} == {
        '00000001_000': {'Cardiomegaly'}, '00000001_001': {'Cardiomegaly', 'Emphysema'},
        '00000002_000': set(), '00000004_000': set(), '00000005_000': {'Mass', 'Nodule'},
        '00000003_000': {'Infiltration', 'Pleural_Thickening', 'Hernia'},
    }  # fmt: skip
    assert {value for item in listing.items for value in item.labels} == {0, 1}
    assert items['00000001_001'].relative == 'images_002/images/00000001_001.png'
    assert by_name(listings[1])['00000001_001'].relative == 'images/00000001_001.png'
    assert items['00000003_000'].view == 'PA' and items['00000003_000'].sex == 'F'
    assert items['00000001_000'].patient == items['00000001_001'].patient == 'nih-00001'
    assert {name for name, item in items.items() if item.split == 'test'} == set(TEST)
    assert {item.split for item in listing.items} == {'train', 'test'}


def test_ages_of_nobody_are_unknown(tmp_path):
    write_tree(tmp_path)
    listing = nih14.list_items(tmp_path)
    ages = {name: item.age for name, item in by_name(listing).items()}
    assert math.isnan(ages.pop('00000002_000'))
    assert list(ages.values()) == [58, 59, 1.5, 0, 82]
    assert listing.notes == ['Data_Entry_2017.csv has no possible age for 1 images.']


def test_boxes_are_read_by_position(tmp_path):
    write_tree(tmp_path)
    items = by_name(nih14.list_items(tmp_path))
    assert items['00000003_000'].boxes == ((225.08, 547.01, 86.77, 79.18), (1.5, 2.5, 3.0, 4.0))
    assert items['00000003_000'].columns == {'box_findings': ['Infiltration', 'Hernia']}
    assert items['00000001_000'].boxes == ((5, 6, 7, 8),)
    assert items['00000005_000'].boxes == () and items['00000005_000'].columns == {}
    write_table(tmp_path / 'BBox_List_2017.csv', [*BOXES, '00000001_000.png,Mass,1,2,3'])
    with pytest.raises(UserError, match='00000001_000.png,Mass,1,2,3'):
        nih14.list_items(tmp_path)


def test_a_few_missing_files_are_named_and_many_are_counted(tmp_path, monkeypatch):
    write_tree(tmp_path)
    for path in (tmp_path / 'images_002' / 'images').iterdir():
        path.unlink()
    write_image(tmp_path / 'images_001' / 'images' / 'other.png')
    write_image(tmp_path / 'images_001' / 'images' / '._00000001_000.png')
    listing = nih14.list_items(tmp_path)
    assert list(by_name(listing)) == ['00000001_000', '00000002_000', '00000004_000']
    lost = 'listed in Data_Entry_2017.csv, but there is no such file'
    assert listing.rejected == [
        ('00000001_001.png', lost), ('00000003_000.png', lost), ('00000005_000.png', lost),
        ('images_001/images/other.png', 'not listed in Data_Entry_2017.csv'),
    ]  # fmt: skip
    monkeypatch.setattr(tables, 'FEW', 2)
    partial = nih14.list_items(tmp_path)
    assert partial.rejected == listing.rejected[3:]
    assert partial.notes[0] == (
        '3 files of 6 that Data_Entry_2017.csv lists are not in the source folder (the first: '
        '00000001_001.png).'
    )
    for path in (tmp_path / 'images_001' / 'images').iterdir():
        path.unlink()
    with pytest.raises(UserError, match='it lists 00000001_000.png'):
        nih14.list_items(tmp_path)


@pytest.mark.parametrize(
    ('column', 'cell', 'complaint'),
    [
        (1, 'Mass|Pneumonitis', "00000001_000.png: 'Mass|Pneumonitis' must be"),
        (1, 'No Finding|Mass', "'No Finding|Mass' must be"),
        (2, 'one', "'one' is no number of a patient"),
    ],
)
def test_an_altered_row_is_told(tmp_path, column, cell, complaint):
    row = list(ROWS[0])
    row[column] = cell
    write_tree(tmp_path, rows=[tuple(row), *ROWS[1:]])
    with pytest.raises(UserError, match=complaint.replace('|', r'\|')):
        nih14.list_items(tmp_path)


def test_altered_tables_are_told(tmp_path):
    write_tree(tmp_path)
    table = tmp_path / 'Data_Entry_2017.csv'
    table.write_text(table.read_text().replace('2749,0.143,0.143', '2749'))
    with pytest.raises(UserError, match='has 9 cells, not 11'):
        nih14.list_items(tmp_path)
    table.write_text('file,label\n')
    with pytest.raises(UserError, match='Data_Entry_2017.csv begins with'):
        nih14.list_items(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match='neither Data_Entry_2017_v2020.csv nor'):
        nih14.list_items(tmp_path)


def test_without_the_lists_the_splits_are_drawn(tmp_path):
    more = [(f'{k:08d}_000', 'No Finding', str(k), '050Y', 'F', 'PA') for k in range(6, 14)]
    write_tree(tmp_path / 'raw', rows=ROWS + more)
    (tmp_path / 'raw' / 'test_list.txt').unlink()
    listing = nih14.list_items(tmp_path / 'raw')
    assert {item.split for item in listing.items} == {''}
    assert 'no official split' in listing.notes[-1]
    prepared = prepare('nih14', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.card['split_origin'].startswith('drawn by patient')
    assert set(prepared.index.split) == set(SPLITS) and prepared.card['has_patient_ids']
    assert prepared.card['images_with_boxes'] == 2
