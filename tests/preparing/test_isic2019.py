"""ISIC 2019: names, unknown classes, lesions."""

import numpy as np
import pytest

from data_pipelines.datasets import isic2019
from data_pipelines.datasets.isic2019 import CLASSES, IMAGES, LABELS, METADATA
from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from tests.isic_tree import HEADER, write_isic, write_table


@pytest.fixture
def tree(tmp_path):
    write_isic(tmp_path, ['MEL', 'UNK', 'SCC', 'NV', 'VASC'])
    return tmp_path


def test_labels_lesions_and_names(tree):
    """A suffix on either side, an unknown class, a lesion that is not told, files without rows."""
    folder = tree / IMAGES
    (folder / 'ISIC_0000002.jpg').rename(folder / 'ISIC_0000002_downsampled.jpg')
    table = (tree / LABELS).read_text().replace('ISIC_0000003', 'ISIC_0000003_downsampled')
    (tree / LABELS).write_text(table + 'ISIC_0000009,1.0' + ',0.0' * 8 + '\n')
    (folder / 'ISIC_0000077.jpg').write_bytes(b'')
    (folder / '._ISIC_0000000.jpg').write_bytes(b'')
    write_table(tree / METADATA, HEADER, [
        ('ISIC_0000000', '45.0', 'head/neck', 'BCN_0000001', 'male'),
        ('ISIC_0000002', '', '', 'MSK4_0000007', ''),
        ('ISIC_0000003_downsampled', '30.0', '', '', 'female'),
    ])  # fmt: skip
    listing = isic2019.list_items(tree)
    assert (listing.names, listing.exclusive, listing.channels) == (CLASSES, True, 3)
    items = {item.path.stem: item for item in listing.items}
    assert len(items) == 5
    shown = {name: item.labels.index(1) for name, item in items.items() if item.labels}
    assert {name: CLASSES[k] for name, k in shown.items()} == {
        'ISIC_0000000': 'MEL', 'ISIC_0000002_downsampled': 'SCC', 'ISIC_0000003': 'NV',
        'ISIC_0000004': 'VASC',
    }  # fmt: skip
    assert items['ISIC_0000001'].labels == ()
    first, second = items['ISIC_0000000'], items['ISIC_0000002_downsampled']
    assert (first.patient, first.source, first.sex, first.age) == ('BCN_0000001', 'BCN', 'male', 45)
    assert first.columns == {'site': 'head/neck'}
    assert (second.patient, second.source, second.columns) == ('MSK4_0000007', 'MSK4', {})
    assert np.isnan(second.age) and items['ISIC_0000003'].patient == ''
    assert dict(listing.rejected).keys() == {
        f'{IMAGES}/ISIC_0000009.jpg', f'{IMAGES}/ISIC_0000077.jpg',
    }  # fmt: skip
    (tree / METADATA).unlink()
    listing = isic2019.list_items(tree)
    assert METADATA in listing.notes[-1] and {item.patient for item in listing.items} == {''}


def test_mistakes_are_told(tree, capsys):
    table = (tree / LABELS).read_text()
    (tree / LABELS).write_text(table.replace('0,1.0,0.0', '0,1.0,1.0', 1))
    with pytest.raises(UserError, match=r'ISIC_0000000 has 2 classes \(MEL, NV\)'):
        isic2019.list_items(tree)
    (tree / IMAGES).rename(tree / 'elsewhere')
    words = ['--dataset', 'isic2019', '--source', str(tree), '--data_dir', str(tree / 'data')]
    assert main(words) == 2 and f'no folder {IMAGES}' in capsys.readouterr().err
