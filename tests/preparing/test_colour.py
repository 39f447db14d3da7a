"""A set in colour: its pixels from file to batch, its card, its numbers; and the grey ones."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import isic2019
from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared import loader
from data_pipelines.prepared.corpus import union
from data_pipelines.prepared.data import CARD_FILE, open_prepared
from data_pipelines.prepared.sampler import Sampler
from data_pipelines.preparing.ingest import prepare_image
from tests.dicom_files import dataset
from tests.isic_tree import write_isic
from tests.siim_tree import stored_records

SIZE = 12
SHOWN = ['MEL', 'MEL', 'NV', 'NV'] * 5
# Of the grey set here, on record from before sets could be in colour.
FINGERPRINT = '1a8f64fc805cd1d822c5c4f21b5dad4a6cec1c515b9ca51f7b7cd705309cb49a'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('colour')
    write_isic(root / 'raw', SHOWN)
    return root


@pytest.fixture(scope='module')
def coloured(root):
    return prepare('isic2019', root / 'raw', root / 'data', SIZE, processes=1)


@pytest.fixture(scope='module')
def grey(root):
    (root / 'grey').mkdir()
    for k in range(4):
        pixels = np.full((SIZE, SIZE), 40 * k, np.uint8)
        Image.fromarray(pixels).save(root / 'grey' / f'{k}.png')
    return prepare('image_folder', root / 'grey', root / 'data', SIZE, processes=1, splits='none')


def expected(root) -> list:
    """Images [SIZE, SIZE, 3] of all files: the mean of each 2 x 2 pixels."""
    images = []
    for path in (root / 'raw' / isic2019.IMAGES).iterdir():
        pixels = np.asarray(Image.open(path)).astype(float)
        images.append(pixels.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)))
    return images


def test_records_hold_the_colours_of_the_files(root, coloured):
    records = stored_records(coloured)
    stored = sorted((r['image'].astype(float) for r in records), key=lambda image: image.sum())
    files = sorted(expected(root), key=lambda image: image.sum())
    assert len(stored) == len(files) == len(SHOWN)
    for one, other in zip(stored, files, strict=True):
        assert one.shape == (SIZE, SIZE, 3)
        np.testing.assert_allclose(one, other, atol=0.51)
    assert np.ptp(stored[0], axis=-1).max() > 5  # a colour indeed
    assert {record['lung_mask'].shape for record in records} == {(SIZE, SIZE, 1)}
    assert (coloured.channels, coloured.card['channels']) == (3, 3)
    assert 'in colour' in (coloured.directory / 'card.md').read_text().splitlines()[0]


def test_the_statistics_are_those_of_all_channels_together(coloured):
    train = [r['image'] for r in stored_records(coloured) if r['split'] == 'train']
    pixels = np.stack(train) / 255
    for found in (coloured.card['statistics']['full'], coloured.corpus('train').statistics('full')):
        np.testing.assert_allclose(
            [found['mean'], found['std']], [pixels.mean(), pixels.std()], rtol=1e-9
        )


def test_batches_have_three_channels(coloured):
    corpus = coloured.corpus('train')
    images = loader.whole(corpus)['image']
    assert images.shape == (len(corpus), SIZE, SIZE, 3) and images.dtype == np.uint8
    batch = next(loader.train_batches(corpus, Sampler(corpus, 4, 0), fields=('image', 'row')))
    np.testing.assert_array_equal(batch['image'], images[batch['row']])
    evaluated = next(loader.eval_batches(corpus, 4))
    np.testing.assert_array_equal(evaluated['image'], images[:4])


def test_grey_and_colour_are_not_mixed(coloured, grey):
    with pytest.raises(UserError) as told:
        union([grey.corpus(), coloured.corpus()])
    assert f'{grey.directory} is grey and {coloured.directory} in colour' in str(told.value)
    assert '--dataset image_folder' in str(told.value)


def test_a_card_of_before_colour_is_of_a_grey_set(grey):
    card = json.loads((grey.directory / CARD_FILE).read_text())
    assert card.pop('channels') == 1
    (grey.directory / CARD_FILE).write_text(json.dumps(card))
    opened = open_prepared(grey.data_dir, grey.name, SIZE)
    assert opened.channels == 1 and opened.fingerprint == FINGERPRINT


def test_the_same_files_as_grey_and_in_colour_are_two_preparations(root, coloured, monkeypatch):
    """Neither the cache nor an existing set of the same name stands for the other."""
    listing = isic2019.list_items(root / 'raw')
    monkeypatch.setattr(
        isic2019, 'list_items', lambda source: dataclasses.replace(listing, channels=1)
    )
    data = root / 'other'
    first = prepare('isic2019', root / 'raw', data, SIZE, processes=1)
    assert first.channels == 1 and first.fingerprint != coloured.fingerprint
    monkeypatch.setattr(isic2019, 'list_items', lambda source: listing)
    again = prepare('isic2019', root / 'raw', data, SIZE, processes=1)
    assert again.channels == 3 and again.fingerprint == coloured.fingerprint


def test_sixteen_bits_and_grey_dicom_in_a_colour_set(tmp_path):
    grey = np.arange(64).reshape(8, 8) * 64
    dataset(grey).save_as(tmp_path / 'a.dcm', enforce_file_format=True)
    single, _, _ = prepare_image(tmp_path / 'a.dcm', 8, 16)
    three, shape, _ = prepare_image(tmp_path / 'a.dcm', 8, 16, channels=3)
    assert shape == (8, 8) and three.dtype == np.uint16 and np.ptp(single) > 0
    np.testing.assert_array_equal(three, single[..., None].repeat(3, -1))

