"""RSNA pneumonia: rows per box, three classes, and ids that are of images, not of persons."""

import numpy as np
import pytest

from data_pipelines.datasets import rsna_pneumonia
from data_pipelines.errors import UserError
from data_pipelines.prepare import main, prepare
from data_pipelines.prepared.data import open_prepared
from tests.datasets import test_nih14
from tests.datasets.trees import by_name, grey_of, write_dicom, write_table

NORMAL, OTHER, OPACITY = rsna_pneumonia.CLASSES
CLASSES = [NORMAL] * 4 + [OTHER] * 4 + [OPACITY] * 4
# Two persons have two images each.
PEOPLE = [1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10]


def name_of(k):
    return f'{k:08x}-1f2e'


def boxes_of(k):
    """Of the images with an opacity, one or two (x, y, w, h)."""
    return [(k, 2 + n, 3, 4) for n in range(1 + k % 2)] if CLASSES[k] == OPACITY else []


def write_tree(root):
    boxes, classes = [], []
    for k, name in enumerate(CLASSES):
        rows = [','.join(f'{v}.0' for v in box) + ',1' for box in boxes_of(k)] or [',,,,0']
        boxes += [f'{name_of(k)},{row}' for row in rows]
        classes += [f'{name_of(k)},{name}'] * len(rows)
        pixels = np.full((16, 16), grey_of(k), np.uint8)
        path = root / 'stage_2_train_images' / f'{name_of(k)}.dcm'
        # As in the official files: the header's patient is the image.
        write_dicom(path, pixels, PatientID=name_of(k), ViewPosition='PA', PatientSex='F')
    write_table(root / rsna_pneumonia.BOX_TABLE, ['patientId,x,y,width,height,Target', *boxes])
    write_table(root / rsna_pneumonia.CLASS_TABLE, ['patientId,class', *classes])


def test_an_image_with_several_boxes_is_one_image(tmp_path):
    write_tree(tmp_path)
    listing = rsna_pneumonia.list_items(tmp_path)
    assert listing.names == (NORMAL, OTHER, OPACITY) and listing.exclusive
    items = by_name(listing)
    assert list(items) == [name_of(k) for k in range(12)] and not listing.rejected
    for k, item in enumerate(items.values()):
        assert listing.names[item.labels.index(1)] == CLASSES[k] and sum(item.labels) == 1
        assert item.boxes == tuple(boxes_of(k)) and item.patient is None
    assert sum(len(item.boxes) for item in listing.items) == 6
    assert items[name_of(9)].columns == {'box_findings': [OPACITY, OPACITY]}


def test_no_patient_is_known_though_the_headers_have_one(tmp_path):
    write_tree(tmp_path / 'raw')
    prepared = prepare('rsna_pneumonia', tmp_path / 'raw', tmp_path / 'data', size=8, processes=1)
    assert set(prepared.index.patient) == {''} and not prepared.card['has_patient_ids']
    assert 'No patient id is known for 12 of 12' in prepared.card['warnings'][0]
    assert prepared.card['split_origin'].startswith('drawn by patient where known')
    assert set(prepared.index.view) == {'PA'} and prepared.card['images_with_boxes'] == 4


def test_a_table_tells_whose_the_images_are(tmp_path, capsys):
    write_tree(tmp_path / 'raw')
    table = tmp_path / 'people.csv'
    rows = [f'{name_of(k)},{p:0{1 + 7 * (k % 2)}d}' for k, p in enumerate(PEOPLE)]
    write_table(table, ['image,patient', *rows])
    data, flags = tmp_path / 'data', ['--size=8', '--processes=1', '--splits=none']
    command = [f'--source={tmp_path / "raw"}', f'--data_dir={data}', *flags]
    told = [f'--options=patients={table}']
    assert main(['--dataset=rsna_pneumonia', *command, *told]) == 0
    index = open_prepared(data, 'rsna_pneumonia', 8).index
    assert sorted(np.unique(index.patient, return_counts=True)[1]) == [1] * 8 + [2] * 2

    # They are persons of NIH ChestX-ray14, of which its tree has the first five.
    test_nih14.write_tree(tmp_path / 'nih')
    nih = prepare('nih14', tmp_path / 'nih', data, size=8, processes=1, splits='none')
    assert set(nih.index.patient) < set(index.patient) and len(set(nih.index.patient)) == 5

    write_table(table, ['image,patient', *rows[:-3]])
    listing = rsna_pneumonia.list_items(tmp_path / 'raw', patients=str(table))
    assert listing.notes == [f'{table} does not tell the patients of 3 images.']
    assert main(['--dataset=rsna_pneumonia', *command, '--options=patients=nowhere.csv']) == 2
    assert 'nowhere.csv is missing' in capsys.readouterr().err


def test_mistakes(tmp_path):
    write_tree(tmp_path)
    boxes, classes = (tmp_path / n for n in (rsna_pneumonia.BOX_TABLE, rsna_pneumonia.CLASS_TABLE))
    texts = boxes.read_text(), classes.read_text()
    for table, old, new, complaint in (
        (boxes, f'{name_of(0)},,,,,0\n', '', f'Only one of .* has {name_of(0)}'),
        (boxes, f'{name_of(0)},,,,,0', f'{name_of(0)},,,,,1', 'must have a box where Target is 1'),
        (boxes, f'{name_of(8)},8.0', f'{name_of(8)},', 'must have a box where Target is 1'),
        (classes, f'{name_of(9)},{OPACITY}\n', f'{name_of(9)},{NORMAL}\n', 'one and the same'),
        (classes, f'{name_of(1)},{NORMAL}', f'{name_of(1)},normal', "has the class 'normal'"),
    ):
        table.write_text(table.read_text().replace(old, new, 1))
        with pytest.raises(UserError, match=complaint):
            rsna_pneumonia.list_items(tmp_path)
        boxes.write_text(texts[0])
        classes.write_text(texts[1])
