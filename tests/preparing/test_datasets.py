"""The readers of data sets: what they find and what they complain about."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import image_folder, siim_covid19
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from tests.siim_tree import (
    prepare_siim,
    stored_records,
    write_siim_tree,
)


def write_png(path, value, shape=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_flat_folder_has_no_labels_and_no_patients(tmp_path, capsys):
    for value in range(9):
        write_png(tmp_path / 'raw' / f'{value}.png', 20 * value)
    write_png(tmp_path / 'raw' / 'copy.png', 20)
    prepared = prepare('image_folder', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert prepared.classes == () and prepared.class_counts['train'] == []
    assert not prepared.has_patient_ids and not prepared.has_lung_masks
    assert list(prepared.statistics) == ['full']
    assert {record['label'] for record in stored_records(prepared)} == {-1}
    assert 'No patient id is known for 10 of 10' in prepared.card['warnings'][0]
    assert 'No patient id' in (prepared.directory / 'card.md').read_text()
    assert prepared.card['duplicates']['extra_copies'] == 1
    with pytest.raises(UserError, match='another source folder'):
        write_png(tmp_path / 'other' / '0.png', 0)
        prepare('image_folder', tmp_path / 'other', tmp_path / 'data', size=8)


def test_class_folders_with_metadata(tmp_path):
    for name in ('b/1.png', 'b/2.PNG', 'a/3.jpg', 'a/.hidden.png', 'a/notes.txt'):
        write_png(tmp_path / 'images' / name, 9) if name[-3:] != 'txt' else None
    (tmp_path / 'metadata.csv').write_text(
        'file,patient,sex,age,view,source,lung_mask,dose\n'
        'images/b/1.png,P1,F,61,AP Supine,here,lung_masks/1.png,3\n'
        'images/a/3.jpg,P1,,,,,,\n'
        'images/a/gone.jpg,P2,,,,,,\n'
    )
    (tmp_path / 'lesion_boxes.csv').write_text(
        'file,finding,x,y,w,h\nimages/b/1.png,Mass,1,2,3,4.5\n'
    )
    listing = image_folder.list_items(tmp_path)
    assert listing.classes == ('a', 'b')
    assert [item.relative for item in listing.items] == [
        'images/a/3.jpg', 'images/b/1.png', 'images/b/2.PNG',
    ]  # fmt: skip
    assert [item.label for item in listing.items] == [0, 1, 1]
    full = listing.items[1]
    assert (full.patient, full.sex, full.age, full.view) == ('P1', 'F', 61, 'AP Supine')
    assert full.lung_mask == tmp_path / 'lung_masks/1.png'
    assert full.boxes == ((1, 2, 3, 4.5),)
    assert full.columns == {'dose': '3', 'box_findings': ['Mass']}
    assert listing.items[2].patient == '' and np.isnan(listing.items[2].age)
    assert listing.notes == [
        '1 of 3 rows of metadata.csv name no image.',
        '1 of 3 images have no row in metadata.csv.',
    ]


def test_image_folder_mistakes(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        image_folder.list_items(tmp_path / 'nowhere')
    write_png(tmp_path / 'a' / '1.png', 1)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no image'):
        image_folder.list_items(tmp_path)
    write_png(tmp_path / 'empty' / '2.png', 1)
    (tmp_path / 'metadata.csv').write_text('file,label\na/1.png,empty\n')
    with pytest.raises(UserError, match="class folder 'a'.*label 'empty'"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('path\na/1.png\n')
    with pytest.raises(UserError, match="lacks the columns \\['file'\\]"):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').write_text('file\n1.png\n')
    with pytest.raises(UserError, match='No row of'):
        image_folder.list_items(tmp_path)
    (tmp_path / 'metadata.csv').unlink()
    write_png(tmp_path / 'loose.png', 1)
    with pytest.raises(UserError, match='both class folders'):
        image_folder.list_items(tmp_path)


def test_siim_mistakes(tmp_path):
    write_siim_tree(tmp_path / 'raw')
    studies, images = (tmp_path / 'raw' / f'train_{k}_level.csv' for k in ('study', 'image'))
    texts = studies.read_text(), images.read_text()
    for table, old, new, complaint in (
        (studies, 'Typical Appearance', 'Typical', 'lacks the columns'),
        (studies, ',1,0,0,0', ',1,1,0,0', 'exactly one of the four'),
        (images, "'x'", "x'", 'boxes of image .* cannot be read'),
        (images, ',00000000000a\n', ',ffffffffffff\n', 'study ffffffffffff'),
    ):
        table.write_text(table.read_text().replace(old, new))
        with pytest.raises(UserError, match=complaint):
            siim_covid19.list_items(tmp_path / 'raw')
        studies.write_text(texts[0])
        images.write_text(texts[1])
    images.unlink()
    with pytest.raises(UserError, match='train_image_level.csv is missing'):
        siim_covid19.list_items(tmp_path / 'raw')


def test_a_class_without_images_is_told(tmp_path):
    truths = write_siim_tree(tmp_path / 'raw')
    for truth in truths:
        if truth.label == 3:
            (tmp_path / 'raw' / truth.path).unlink()
    prepared = prepare_siim(tmp_path / 'raw', tmp_path / 'data')
    assert [counts[3] for counts in prepared.class_counts.values()] == [0, 0, 0]
    assert prepared.card['quarantined'] == 6
    assert any('has the class atypical' in sentence for sentence in prepared.card['warnings'])


def test_the_real_image_folder_is_listed_as_its_readme_says(shared):
    listing = image_folder.list_items(shared / 'real_cxr')
    names = [listing.classes[item.label] for item in listing.items]
    counts = {name: names.count(name) for name in listing.classes}
    assert counts == {'covid': 81, 'no_finding': 368, 'pneumonia': 326}
    assert len({item.patient for item in listing.items}) == 560
    assert sum(item.lung_mask is not None for item in listing.items) == 81
    assert sum(len(item.boxes) for item in listing.items) == 37
    assert not listing.notes


def test_synthetic_set_comes_through_the_siim_reader(tmp_path):
    prepared = prepare('synthetic_cxr', None, tmp_path, size=32, images=24, processes=1)
    assert prepared.classes == siim_covid19.CLASSES and prepared.has_patient_ids
    assert prepared.has_lung_masks and not prepared.card['quarantined']
    fewer = prepare('synthetic_cxr', None, tmp_path, size=32, images=20, processes=1)
    assert sum(fewer.counts.values()) == 20 and not fewer.card['quarantined']
