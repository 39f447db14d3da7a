"""VinDr-CXR: three readers of an image, two layouts, boxes of all readers, the official split."""

import numpy as np
import pytest

from data_pipelines.datasets import vindr_cxr
from data_pipelines.errors import UserError
from data_pipelines.prepare import main, prepare
from data_pipelines.prepared.data import open_prepared
from tests.datasets.trees import by_name, grey_of, shown, write_dicom, write_image, write_table

HEADER = 'image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max'
NOTHING = 'No finding,14,{},,,,'
KAGGLE = {  # what three readers wrote of each image
    'a0': [NOTHING.format(r) for r in ('R8', 'R9', 'R10')],
    'a1': ['Cardiomegaly,3,R8,1,9,11,14', 'Cardiomegaly,3,R9,2.5,9,11,14',
           'Cardiomegaly,3,R9,2,8,10,13', NOTHING.format('R10')],
    'a2': ['Nodule/Mass,8,R1,3,4,5,8', NOTHING.format('R8'), NOTHING.format('R9')],
    'a3': [f'Pulmonary fibrosis,13,R{r},0,0,4,4' for r in (8, 9, 10)] + ['ILD,5,R9,0,0,4,4'],
}  # fmt: skip
TRAIN = [*vindr_cxr.PHYSIONET, 'No finding']
TEST = ['Other disease' if name == 'Other diseases' else name for name in TRAIN]


def write_kaggle(root):
    rows = [f'{image},{row}' for image, own in KAGGLE.items() for row in own]
    write_table(root / 'train.csv', [HEADER, *rows])
    for k, image in enumerate(KAGGLE):
        write_image(root / 'train' / f'{image}.dicom', k)
    write_image(root / 'test' / 'z0.dicom')


def votes(columns, *seen):
    return ','.join(str(int(name in seen)) for name in columns)


def write_physionet(root, folder='annotations'):
    labels = []
    for k in range(6):
        for reader in range(1, 4):
            seen = ['Tuberculosis'] * (k == 1) + ['Other diseases'] * (k == 2 and reader < 3)
            seen += ['Pneumonia'] * (k == 3 and reader == 3)
            row = votes(TRAIN, *(seen or ['No finding']))
            labels.append(f't{k},R{reader},{row}')
    places = ['t1,R1,Lung Opacity,2,4,8,10', 't1,R2,Lung Opacity,2,4,9,10', 't0,R1,No finding,,,,']
    write_table(root / folder / 'image_labels_train.csv',
                ['image_id,rad_id,' + ','.join(TRAIN), *labels])  # fmt: skip
    write_table(root / folder / 'annotations_train.csv',
                ['image_id,rad_id,class_name,x_min,y_min,x_max,y_max', *places])  # fmt: skip
    write_table(root / folder / 'image_labels_test.csv',
                ['image_id,' + ','.join(TEST), 'v0,' + votes(TEST, 'Other disease')])  # fmt: skip
    write_table(root / folder / 'annotations_test.csv',
                ['image_id,class_name,x_min,y_min,x_max,y_max', 'v0,ILD,1,1,3,5'])  # fmt: skip
    for k, image in enumerate([*(f'train/t{k}' for k in range(6)), 'test/v0']):
        write_image(root / f'{image}.dicom', k)


def test_findings_are_what_most_readers_saw(tmp_path):
    write_kaggle(tmp_path)
    listing = vindr_cxr.list_items(tmp_path)
    assert len(listing.names) == 14 and 'No finding' not in listing.names and not listing.exclusive
    items = by_name(listing)
    assert {i: shown(listing, item) for i, item in items.items()} == {
        'a0': set(), 'a1': {'Cardiomegaly'}, 'a2': set(), 'a3': {'Pulmonary fibrosis'},
    }  # fmt: skip
    assert {i: shown(listing, item, -1) for i, item in items.items()} == {
        'a0': set(), 'a1': set(), 'a2': {'Nodule/Mass'}, 'a3': {'ILD'},
    }  # fmt: skip
    assert items['a0'].labels == (0,) * 14
    assert {item.split for item in items.values()} == {''}, 'no test labels are public'
    assert not listing.rejected, 'images of Kaggle without labels are no part of the set'


@pytest.mark.parametrize(('readers', 'yes', 'uncertain'), [(1, 4, 0), (2, 2, 2), (3, 1, 3)])
def test_how_many_readers_it_takes(tmp_path, readers, yes, uncertain):
    write_kaggle(tmp_path)
    listing = vindr_cxr.list_items(tmp_path, readers=readers)
    said = [value for item in listing.items for value in item.labels]
    assert (said.count(1), said.count(-1)) == (yes, uncertain)
    with pytest.raises(UserError, match='readers=0 must be 1 or more'):
        vindr_cxr.list_items(tmp_path, readers=0)


def test_boxes_of_all_readers_are_kept(tmp_path):
    write_kaggle(tmp_path)
    items = by_name(vindr_cxr.list_items(tmp_path))
    assert items['a1'].boxes == ((1, 9, 10, 5), (2.5, 9, 8.5, 5), (2, 8, 8, 5))
    assert items['a1'].columns == {
        'box_findings': ['Cardiomegaly'] * 3, 'box_readers': ['R8', 'R9', 'R9'],
    }  # fmt: skip
    assert items['a0'].boxes == () and items['a0'].columns == {}


@pytest.mark.parametrize('folder', ['annotations', '.'])
def test_the_layout_of_physionet(tmp_path, folder):
    write_physionet(tmp_path, folder)
    listing = vindr_cxr.list_items(tmp_path)
    assert len(listing.names) == 27 and listing.names[-1] == 'Other diseases'
    items = by_name(listing)
    assert {i: shown(listing, item) for i, item in items.items()} == {
        't0': set(), 't1': {'Tuberculosis'}, 't2': {'Other diseases'}, 't3': set(), 't4': set(),
        't5': set(), 'v0': {'Other diseases'},
    }  # fmt: skip
    assert shown(listing, items['t3'], -1) == {'Pneumonia'}
    assert [item.split for item in items.values()] == ['train'] * 6 + ['test']
    assert items['t1'].boxes == ((2, 4, 6, 6), (2, 4, 7, 6))
    assert items['v0'].boxes == ((1, 1, 2, 4),)
    assert items['v0'].columns == {'box_findings': ['ILD']}
    assert items['v0'].relative == 'test/v0.dicom'
    (tmp_path / folder / 'image_labels_test.csv').unlink()
    alone = vindr_cxr.list_items(tmp_path)
    assert len(alone.items) == 6 and {item.split for item in alone.items} == {''}


def test_files_without_pixels_are_set_aside(tmp_path):
    write_physionet(tmp_path / 'raw')
    broken = tmp_path / 'raw' / 'train' / 't0.dicom'
    header = broken.read_bytes()
    broken.write_bytes(header[: header.index(b'\xe0\x7f\x10\x00')])
    write_dicom(tmp_path / 'raw/train/t3.dicom', np.full((16, 16), grey_of(9), np.uint8),
                PhotometricInterpretation='MONOCHROME1')  # fmt: skip
    command = [f'--source={tmp_path / "raw"}', f'--data_dir={tmp_path}', '--size=8']
    assert main(['--dataset=vindr_cxr', '--processes=1', *command]) == 3
    prepared = open_prepared(tmp_path, 'vindr_cxr', 8)
    assert prepared.card['quarantined'] == 1
    assert prepared.card['counts'] == {'train': 4, 'validation': 1, 'test': 1}
    assert 'train/t0.dicom' in (prepared.directory / 'quarantine.csv').read_text()
    assert prepared.card['raw_files']['photometric'] == {'MONOCHROME2': 5, 'MONOCHROME1': 1}


def test_without_a_split_of_its_own_it_is_drawn(tmp_path):
    write_kaggle(tmp_path / 'raw')
    with pytest.raises(UserError, match='at least three patients'):
        prepare('vindr_cxr', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)


def test_mistakes(tmp_path):
    write_kaggle(tmp_path)
    table = tmp_path / 'train.csv'
    text = table.read_text()
    for old, new, complaint in (
        ('Nodule/Mass', 'Nodule', "a2 has the unknown class 'Nodule'"),
        ('3,4,5,8', '3,4,3,8', r"\['3', '4', '3', '8'\] of a2 has no area"),
        ('rad_id', 'reader', r"lacks the columns \['rad_id'\]"),
    ):
        table.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=complaint):
            vindr_cxr.list_items(tmp_path)
