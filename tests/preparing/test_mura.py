"""MURA: tables without a header, labels of studies, parts, stray and broken files."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import mura
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare

# (split, part, patient, study, images)
STUDIES = [
    ('train', 'SHOULDER', 1, 'study1_positive', 2), ('train', 'WRIST', 1, 'study1_negative', 1),
    ('train', 'WRIST', 2, 'study1_negative', 2), ('train', 'HAND', 3, 'study1_positive', 1),
    ('train', 'HAND', 4, 'study1_negative', 1), ('train', 'HAND', 5, 'study1_positive', 1),
    ('train', 'HAND', 6, 'study2_negative', 1), ('train', 'HAND', 7, 'study1_positive', 1),
    ('train', 'HAND', 8, 'study1_negative', 1), ('train', 'HAND', 9, 'study1_positive', 1),
    ('valid', 'HAND', 11, 'study1_positive', 1), ('valid', 'WRIST', 12, 'study1_negative', 1),
]  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    tables = {f'{s}_{t}': [] for s in mura.SPLITS for t in ('image_paths', 'labeled_studies')}
    for number, (split, part, patient, study, images) in enumerate(STUDIES):
        folder = f'MURA-v1.1/{split}/XR_{part}/patient{patient:05}/{study}/'
        tables[f'{split}_labeled_studies'].append(f'{folder},{int("positive" in study)}')
        (tmp_path / folder).mkdir(parents=True)
        for k in range(1, images + 1):
            pixels = np.full((12, 8), 10 * number + k + 9, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f'image{k}.png')
            (tmp_path / folder / f'._image{k}.png').write_bytes(b'')
            tables[f'{split}_image_paths'].append(f'{folder}image{k}.png')
        (tmp_path / folder / '.DS_Store').write_bytes(b'')
    for name, lines in tables.items():
        (tmp_path / 'MURA-v1.1' / f'{name}.csv').write_text('\n'.join(lines) + '\n')
    return tmp_path


def test_studies_parts_and_patients(tree):
    listing = mura.list_items(tree)
    assert listing.names == ('negative', 'positive') and not listing.rejected
    assert len(listing.items) == 14
    shoulder, *_ = items = listing.items
    assert (shoulder.labels, shoulder.source, shoulder.split) == ((0, 1), 'SHOULDER', 'train')
    # One patient, two parts: one person for the splits, two studies.
    both = [item for item in items if item.patient == 'patient00001']
    assert [item.source for item in both] == ['SHOULDER', 'SHOULDER', 'WRIST']
    assert len({item.study for item in both}) == 2
    assert {item.labels for item in items if item.split == 'test'} == {(0, 1), (1, 0)}
    inside = mura.list_items(tree / mura.TOP)
    assert [item.labels for item in inside.items] == [item.labels for item in items]
    wrists = mura.list_items(tree, part='wrist')
    assert {item.source for item in wrists.items} == {'WRIST'} and len(wrists.items) == 4
    with pytest.raises(UserError, match='SHOULDER, WRIST'):
        mura.list_items(tree, part='FOOT')


def test_prepared_with_a_broken_a_missing_and_an_extra_file(tree, tmp_path):
    """What it calls valid is tested on; validation is drawn from train, patients kept together."""
    hands = tree / mura.TOP / 'train' / 'XR_HAND'
    broken = hands / 'patient00003' / 'study1_positive' / 'image1.png'
    broken.write_bytes(broken.read_bytes()[:40])
    (hands / 'patient00004' / 'study1_negative' / 'image1.png').unlink()
    extra = hands / 'patient00005' / 'study1_positive' / 'image9.png'
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(extra)
    prepared = prepare('mura', tree, tmp_path / 'data', 12, processes=1)
    told = (prepared.directory / 'quarantine.csv').read_text()
    assert prepared.card['quarantined'] == 3
    for name in ('patient00003', 'no such file', 'image9.png,not listed'):
        assert name in told
    assert prepared.card['counts']['test'] == 2
    index = prepared.index
    assert sorted(index.source[index.split == 'test']) == ['HAND', 'WRIST']
    splits = {}
    for patient, split in zip(index.patient, index.split, strict=True):
        assert splits.setdefault(patient, split) == split
    # 12 x 8 pixels are padded to a square with black, and never stretched.
    image = prepared.read([0], ('image',))[0]['image'][..., 0]
    assert not image[:, [0, 1, 10, 11]].any() and (image[:, 2:10] == image[0, 2]).all()


def test_small_images_are_padded_and_not_enlarged(tree, tmp_path):
    prepared = prepare('mura', tree, tmp_path / 'data', 20, processes=1)
    for record in prepared.read(prepared.rows, ('image', 'original_size')):
        image = record['image'][..., 0]
        assert record['original_size'].tolist() == [12, 8] and image[4, 6]
        assert (image[4:16, 6:14] == image[4, 6]).all()
        assert image.sum() == 12 * 8 * int(image[4, 6])


def test_tables_that_do_not_fit(tree):
    studies = tree / mura.TOP / 'train_labeled_studies.csv'
    whole = studies.read_text()
    studies.write_text(whole.replace('_positive/,1', '_positive/,0', 1))
    with pytest.raises(UserError, match='the name of its folder does not'):
        mura.list_items(tree)
    studies.write_text(whole.split('\n', 1)[1])
    with pytest.raises(UserError, match='study train_labeled_studies.csv lacks'):
        mura.list_items(tree)
    studies.write_text('folder\n')
    with pytest.raises(UserError, match=r'must have 2 column\(s\) and no header'):
        mura.list_items(tree)
