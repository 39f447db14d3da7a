"""CheXpert: what its cells say, its two prefixes, frontal images, the split of papers."""

import math

import pytest

from data_pipelines.datasets import chexpert
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests.datasets.trees import shown, write_image, write_table

HEADER = (
    'Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,'
    'Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,'
    'Pleural Effusion,Pleural Other,Fracture,Support Devices'
)
# Path below the prefix, facts, and the 14 cells beginning with No Finding.
TRAIN = [
    ('train/patient00001/study1/view1_frontal.jpg', 'Female,68,Frontal,AP',
     '1.0,,,,,,,,,0.0,,,,1.0'),
    ('train/patient00002/study1/view1_frontal.jpg', 'Male,0,Frontal,PA', ',,1.0,-1.0,,,,,,0.0,,,,'),
    ('train/patient00002/study1/view2_lateral.jpg', 'Male,0,Lateral,', ',,1.0,-1.0,,,,,,0.0,,,,'),
    ('train/patient00003/study2/view1_frontal.jpg', 'Unknown,42,Frontal,LL', '1.0' + ',' * 13),
    ('train/patient00004/study1/view1_frontal.jpg', 'Male,30,Frontal,AP', ',' * 13),
]  # fmt: skip
VALID = [
    ('valid/patient64541/study1/view1_frontal.jpg', 'Male,73,Frontal,AP',
     '0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0'),
]  # fmt: skip


def write_tree(root, prefix='CheXpert-v1.0-small/', train=TRAIN):
    for name, rows in (('train', train), ('valid', VALID)):
        lines = [f'{prefix}{path},{facts},{cells}' for path, facts, cells in rows]
        write_table(root / f'{name}.csv', [HEADER, *lines])
        for k, (path, *_) in enumerate(rows):
            write_image(root / path, k + 6 * (name == 'valid'))


def by_patient(listing):
    return {item.patient[-5:]: item for item in listing.items}


def test_cells_are_kept_as_they_are_said(tmp_path):
    write_tree(tmp_path)
    listing = chexpert.list_items(tmp_path)
    assert listing.names == tuple(HEADER.split(',')[6:]) and not listing.exclusive
    items = by_patient(listing)
    assert list(items) == ['00001', '00002', '00003', '00004', '64541']
    second = items['00002']
    assert shown(listing, second) == {'Cardiomegaly'}
    assert shown(listing, second, -1) == {'Lung Opacity'}
    assert shown(listing, second, 0) == {'Pneumothorax'}
    assert len(shown(listing, second, -2)) == 10
    assert items['00004'].labels == (-2,) * 13
    assert shown(listing, items['64541']) == {
        'Enlarged Cardiomediastinum', 'Cardiomegaly', 'Lung Opacity',
    }  # fmt: skip
    assert len(shown(listing, items['64541'], 0)) == 10


def test_no_finding_speaks_of_diseases_alone(tmp_path):
    write_tree(tmp_path)
    listing = chexpert.list_items(tmp_path)
    items = by_patient(listing)
    assert items['00001'].labels == (0,) * 12 + (1,), 'devices are seen and no disease'
    assert items['00003'].labels == (0,) * 12 + (-2,), 'of devices nothing is said'


def test_facts_of_patients(tmp_path):
    write_tree(tmp_path)
    items = by_patient(chexpert.list_items(tmp_path))
    assert [item.sex for item in items.values()] == ['Female', 'Male', '', 'Male', 'Male']
    assert [i.age for i in items.values() if not math.isnan(i.age)] == [68, 42, 30, 73]
    assert math.isnan(items['00002'].age), '0 stands for unknown'
    assert [item.view for item in items.values()] == ['AP', 'PA', 'LL', 'AP', 'AP']
    assert [item.split for item in items.values()] == ['train'] * 4 + ['test']
    assert items['00003'].patient == 'chexpert-patient00003'
    assert items['00003'].study == 'chexpert-patient00003-study2'


def test_the_prefix_does_not_matter(tmp_path):
    said = []
    for k, prefix in enumerate(('CheXpert-v1.0-small/', 'CheXpert-v1.0/', '')):
        write_tree(tmp_path / str(k), prefix)
        listing = chexpert.list_items(tmp_path / str(k))
        assert not listing.rejected
        said.append([(item.relative, item.labels) for item in listing.items])
    assert said[0] == said[1] == said[2] and len(said[0]) == 5


def test_laterals_are_an_option(tmp_path):
    write_tree(tmp_path)
    frontal = chexpert.list_items(tmp_path)
    assert frontal.notes == [
        '1 images that are not frontal are left out (--options laterals=True).'
    ]
    assert not frontal.rejected, 'a lateral file is listed, though it is not used'
    every = chexpert.list_items(tmp_path, laterals=True)
    assert len(every.items) == 6 and not every.notes
    lateral = [item.view for item in every.items if 'lateral' in item.relative]
    assert lateral == ['Lateral']


def test_mistakes(tmp_path):
    write_tree(tmp_path)
    (tmp_path / TRAIN[0][0]).rename(tmp_path / 'train' / 'other.jpg')
    listing = chexpert.list_items(tmp_path)
    assert [path for path, _ in listing.rejected] == [TRAIN[0][0], 'train/other.jpg']
    write_tree(tmp_path, train=[(TRAIN[0][0], TRAIN[0][1], '2.0' + ',' * 13)])
    with pytest.raises(UserError, match="No Finding has '2.0' for .*patient00001"):
        chexpert.list_items(tmp_path)
    write_tree(tmp_path, '', train=[('frontal.jpg', *TRAIN[0][1:])])
    with pytest.raises(UserError, match='the path frontal.jpg is not'):
        chexpert.list_items(tmp_path)
    with pytest.raises(UserError, match='train.csv is missing'):
        chexpert.list_items(tmp_path / 'train')


def test_validation_is_drawn_from_train_and_valid_is_tested(tmp_path):
    write_tree(tmp_path / 'raw')
    prepared = prepare('chexpert', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.card['counts'] == {'train': 3, 'validation': 1, 'test': 1}
    assert prepared.card['split_origin'].startswith("the data set's own, validation drawn")
    index = prepared.index
    assert set(index.view) == {'AP', 'PA', ''} and set(index.sex) == {'F', 'M', ''}
    assert sorted(index.labels[:, chexpert.FINDINGS.index('Lung Opacity')]) == [-2, -1, 0, 0, 1]
    assert prepared.card['licence'] == chexpert.LICENCE
