"""The data set's own splits, and what may be chosen of a reader, through prepare."""

import numpy as np
import pytest

from data_pipelines.datasets import chexpert, mimic_cxr, read_options, vindr_cxr
from data_pipelines.errors import UserError
from data_pipelines.prepare import main
from data_pipelines.prepared.data import open_prepared
from data_pipelines.preparing.items import Preparation
from tests.datasets import test_chexpert, test_nih14
from tests.datasets.trees import grey_of

# Two images of each of 24 patients; the lists put every third patient into the test split.
ROWS = [
    (f'{patient:08d}_{k:03d}', 'Hernia' if patient % 2 else 'No Finding', str(patient), '050Y',
     'F', 'PA')
    for patient in range(1, 25) for k in range(2)
]  # fmt: skip


def is_test(image):
    return int(image[:8]) % 3 == 0


def write_lists(root, in_test=is_test):
    names = [image for image, *_ in ROWS]
    train, test = ([f'{n}.png\n' for n in names if in_test(n) == flag] for flag in (False, True))
    (root / 'train_val_list.txt').write_text(''.join(train))
    (root / 'test_list.txt').write_text(''.join(test))


@pytest.fixture
def tree(tmp_path):
    test_nih14.write_tree(tmp_path / 'raw', rows=ROWS)
    write_lists(tmp_path / 'raw')
    return tmp_path


def split_of_numbers(root, *flags, code=0):
    """Prepare the tree; {number of the image: (split, patient)}."""
    command = ['--dataset=nih14', f'--source={root / "raw"}', f'--data_dir={root / "data"}']
    assert main([*command, '--size=8', '--processes=1', *flags]) == code
    if code:
        return None
    prepared = open_prepared(root / 'data', 'nih14', 8)
    index = prepared.index
    # The sum of an image of one grey value tells its number.
    numbers = index.sums[:, 1] // 64
    facts = zip(index.split.tolist(), index.patient.tolist(), strict=True)
    return dict(zip(numbers.tolist(), facts, strict=True)), prepared.card['split_origin']


def test_the_official_test_is_kept_and_validation_drawn_by_patient(tree, capsys):
    splits, origin = split_of_numbers(tree)
    assert origin == "the data set's own, validation drawn by patient (seed 0)"
    for k, (image, *_) in enumerate(ROWS):
        assert (splits[grey_of(k)][0] == 'test') == is_test(image)
    people = {split: {p for s, p in splits.values() if s == split}
              for split in ('train', 'validation', 'test')}  # fmt: skip
    # 16 patients are left for training: an eighth of each half (8 Hernia, 8 No Finding).
    assert {split: len(own) for split, own in people.items()} == {
        'train': 14, 'validation': 2, 'test': 8,
    }  # fmt: skip
    assert len(set.union(*people.values())) == 24, 'nobody is in two splits'

    again, origin = split_of_numbers(tree, '--seed=1')
    assert origin.endswith('(seed 1)') and again != splits
    assert {k for k, (s, _) in again.items() if s == 'test'} == {
        k for k, (s, _) in splits.items() if s == 'test'
    }

    # Drawn splits do not know the lists.
    drawn, origin = split_of_numbers(tree, '--splits=drawn')
    assert origin == 'drawn by patient, 70/10/20, stratified by label, seed 0'
    counts = np.unique([s for s, _ in drawn.values()], return_counts=True)[1]
    assert counts.tolist() == [12, 32, 4], 'test, train, validation: 3, 8, 1 of 12, twice, 2 images'
    everything, origin = split_of_numbers(tree, '--splits=none')
    assert {s for s, _ in everything.values()} == {'train'}

    # A patient in two of the official splits.
    write_lists(tree / 'raw', lambda image: is_test(image) or image == '00000001_001')
    capsys.readouterr()
    split_of_numbers(tree, code=2)
    told = capsys.readouterr().err
    assert "own splits put images_00" in told and '00000001_00' in told
    assert 'train and test' in told or 'test and train' in told
    assert '--splits drawn' in told
    split_of_numbers(tree, '--splits=drawn')

    # A copy that has no test images.
    write_lists(tree / 'raw', lambda image: False)
    split_of_numbers(tree, code=2)
    told = capsys.readouterr().err
    assert "the splits ['test'] empty; they are the data set's own" in told


def test_options_are_read_by_the_type_of_their_default():
    assert read_options(chexpert, []) == {}
    assert read_options(chexpert, ['laterals=True']) == {'laterals': True}
    assert read_options(mimic_cxr, ['laterals=False', 'labels=negbio']) == {
        'laterals': False, 'labels': 'negbio',
    }  # fmt: skip
    assert read_options(vindr_cxr, ['readers=3']) == {'readers': 3}


@pytest.mark.parametrize(
    ('dataset', 'option', 'complaint'),
    [
        ('chexpert', 'lateral=True', 'lateral=True is not one of chexpert, which has laterals=Fal'),
        ('chexpert', 'laterals', 'laterals is not one of chexpert.*NAME=VALUE'),
        ('chexpert', 'laterals=yes', 'laterals=yes must be True or False'),
        ('vindr_cxr', 'readers=two', 'readers=two must be of type int'),
        ('nih14', 'laterals=True', 'nih14, which has none'),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(tmp_path, dataset, option, complaint):
    with pytest.raises(UserError, match=complaint):
        Preparation(dataset, tmp_path / 'nowhere', tmp_path, options=(option,))


def test_an_option_makes_another_set_of_the_same_folder(tmp_path, capsys):
    test_chexpert.write_tree(tmp_path / 'raw')
    command = ['--dataset=chexpert', f'--source={tmp_path / "raw"}', f'--data_dir={tmp_path}']
    command += ['--size=8', '--processes=1', '--splits=none', '--options']
    for options, images in ([], 5), (['laterals=True'], 6), (['laterals=False'], 5):
        assert main([*command, *options]) == 0
        prepared = open_prepared(tmp_path, 'chexpert', 8)
        assert len(prepared.corpus()) == images and prepared.card['options'] == options
    assert main([*command, 'views=all']) == 2
    assert 'views=all is not one of chexpert' in capsys.readouterr().err
