"""Quality control against drawn shapes; the sidecar's round trip, statistics and regions."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from cxr_jax.views.region import prepare_images
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import Records, open_prepared
from data_pipelines.prepared.loader import eval_batches, train_batches
from data_pipelines.prepared.lung_quality import Quality, checked, two_largest
from data_pipelines.prepared.mask_store import open_masks
from data_pipelines.prepared.masks import write_masks
from data_pipelines.preparing.splits import assign_folds

R = 100


def ellipse(x, y, width, height, size=R):
    """Filled ellipse; all in shares of the side."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    return ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 <= 0.25


LEFT, RIGHT = ellipse(0.3, 0.5, 0.25, 0.6), ellipse(0.7, 0.52, 0.25, 0.5)


def test_a_pair_of_lungs_is_kept_as_it_is():
    mask, reason = checked(LEFT | RIGHT, Quality())
    assert not reason and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, LEFT | RIGHT)


def test_holes_are_filled_and_third_regions_removed():
    hole, speck = ellipse(0.3, 0.5, 0.08, 0.1), ellipse(0.5, 0.95, 0.05, 0.05)
    mask, reason = checked((LEFT | RIGHT) & ~hole | speck, Quality())
    assert not reason and hole.any() and speck.any()
    np.testing.assert_array_equal(mask, LEFT | RIGHT)


def test_components_touch_at_corners_and_come_in_order():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = mask[0, 7] = mask[5:7, 5] = True
    first, second = two_largest(mask)
    assert first.sum() == 3 and second.sum() == 2 and not (first & second).any()


@pytest.mark.parametrize(
    ('mask', 'word'),
    [
        (np.zeros((R, R), bool), 'no lung'),
        (LEFT, 'one region only'),
        (LEFT | RIGHT | ellipse(0.5, 0.5, 0.5, 0.1), 'one region only'),
        (ellipse(0.28, 0.5, 0.5, 0.95) | ellipse(0.8, 0.5, 0.3, 0.6), 'more than 35%'),
        (LEFT | ellipse(0.7, 0.5, 0.1, 0.2), 'second lung covers less than 2%'),
        (ellipse(0.3, 0.5, 0.2, 0.24) | ellipse(0.7, 0.5, 0.2, 0.24), 'less than 8%'),
        (ellipse(0.26, 0.5, 0.46, 0.92) | ellipse(0.74, 0.5, 0.46, 0.92), 'more than 60%'),
        (ellipse(0.3, 0.5, 0.35, 0.9) | ellipse(0.7, 0.5, 0.2, 0.26), 'smaller than 25%'),
        (ellipse(0.45, 0.25, 0.5, 0.3) | ellipse(0.55, 0.6, 0.5, 0.3), 'side by side'),
        (ellipse(0.3, 0.3, 0.3, 0.4) | ellipse(0.7, 0.6, 0.3, 0.4), 'far above'),
        (ellipse(0.12, 0.5, 0.2, 0.6) | ellipse(0.4, 0.5, 0.2, 0.6), 'one side of the image'),
    ],
)
def test_what_is_no_pair_of_lungs_is_rejected(mask, word):
    assert word in checked(mask, Quality())[1]


def test_folds_keep_patients_together_and_are_even():
    patients = [f'p{k}' for k in (3, 1, 3, 2, 9, 1, 4, 5, 7, 3)]
    fold = assign_folds(patients, 3)
    by_patient = {p: set(fold[np.array(patients) == p]) for p in patients}
    assert all(len(folds) == 1 for folds in by_patient.values())
    counts = np.bincount([next(iter(folds)) for folds in by_patient.values()])
    assert counts.tolist() == [3, 2, 2]


@pytest.fixture(scope='module')
def prepared(tiny_data, tmp_path_factory):
    """A copy of the tiny set that sidecars may be written into."""
    folder = tmp_path_factory.mktemp('sidecar')
    shutil.copytree(tiny_data.directory, folder / tiny_data.name / tiny_data.directory.name)
    return open_prepared(folder, tiny_data.name, tiny_data.size)


@pytest.fixture(scope='module')
def drawn(prepared):
    """(ids, masks): plausible ellipses of varying size; every seventh image has one lung only."""
    ids, masks = [], []
    for split in prepared.counts:
        for image_id in Records(prepared, split, ('image_id',)).column('image_id'):
            height = 0.4 + 0.01 * (len(ids) % 20)
            left = ellipse(0.3, 0.5, 0.25, height, prepared.size)
            right = ellipse(0.7, 0.5, 0.25, height, prepared.size)
            masks.append(left if len(ids) % 7 == 3 else left | right)
            ids.append(str(image_id))
    return ids, masks


@pytest.fixture(scope='module')
def card(prepared, drawn):
    return write_masks(prepared, 'drawn', *drawn, {'model': 'ellipses'})


@pytest.fixture(scope='module')
def with_masks(prepared, card):
    return open_prepared(prepared.directory.parents[1], prepared.name, prepared.size, 'drawn')


def split_rows(prepared, data):
    """{split: (numbers of the kept images counted through all splits, first number)}."""
    first, result = 0, {}
    for split, n in prepared.counts.items():
        numbers = np.arange(first, first + n)
        result[split] = numbers[numbers % 7 != 3]
        first += n
    return result


def test_accepted_masks_come_back_through_the_loader(prepared, with_masks, drawn):
    ids, masks = drawn
    assert with_masks.has_lung_masks
    for split, numbers in split_rows(prepared, with_masks).items():
        batches = list(eval_batches(with_masks, split, 5))
        found = {
            name: np.concatenate([batch[name][batch['valid']] for batch in batches])
            for name in ('image_id', 'lung_mask', 'has_lung_mask', 'image', 'label')
        }
        assert found['image_id'].tolist() == [ids[k] for k in numbers]
        np.testing.assert_array_equal(found['lung_mask'][..., 0], [masks[k] for k in numbers])
        assert found['has_lung_mask'].all() and found['lung_mask'].dtype == np.uint8
        assert with_masks.counts[split] == len(numbers)
        counted = np.bincount(found['label'], minlength=len(prepared.classes)).tolist()
        assert with_masks.class_counts[split] == counted
    batch = next(train_batches(with_masks, 'train', 4, 0, masks=True))
    known = {mask.astype(np.uint8).tobytes() for mask in masks}
    assert all(mask.tobytes() in known for mask in batch['lung_mask'])


def test_rejected_images_are_listed_and_counted(prepared, card, drawn):
    ids = drawn[0]
    folder = prepared.directory / 'masks' / 'drawn'
    with (folder / 'rejected.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['image_id'] for row in rows] == ids[3::7]
    assert {row['reason'] for row in rows} == set(card['reasons'])
    stored = json.loads((folder / 'card.json').read_text())
    assert stored == card and stored['origin'] == {'model': 'ellipses'}
    for part in ('accepted', 'rejected'):
        for counts in card[part].values():
            assert counts['images'] == sum(counts['classes'])
    total = sum(c['images'] for part in ('accepted', 'rejected') for c in card[part].values())
    assert total == len(ids) and (folder / 'contact_sheet.png').stat().st_size > 10_000


def test_statistics_are_those_of_the_regions_on_the_device(with_masks):
    gray = with_masks.statistics['full']['mean']
    batches = list(eval_batches(with_masks, 'train', with_masks.counts['train']))
    for region in ('full', 'lungs_black', 'lungs_gray', 'background'):
        pixels = np.asarray(prepare_images(batches[0], region, gray), np.float64)
        contract = with_masks.contract(region)
        assert contract['mean'] == pytest.approx(pixels.mean(), abs=1e-6)
        assert contract['std'] == pytest.approx(pixels.std(), abs=1e-6)


def test_the_fingerprint_follows_the_masks(prepared, with_masks, drawn, card):
    ids, masks = drawn
    again = write_masks(prepared, 'again', ids, masks, {'model': 'the same by another name'})
    changed = [*masks[:-1], masks[-1] & (np.arange(prepared.size) != 12)]
    other = write_masks(prepared, 'other', ids, changed, {})
    assert again['fingerprint'] == card['fingerprint'] != other['fingerprint']
    keys = {prepared.with_masks(name).fingerprint for name in ('drawn', 'again', 'other')}
    assert len(keys) == 2 and prepared.fingerprint not in keys


def test_classes_may_be_chosen_among_the_accepted(with_masks):
    chosen = with_masks.of_classes(with_masks.classes[:2])
    assert chosen.counts['train'] == sum(with_masks.class_counts['train'][:2])
    labels = Records(chosen, 'train', ('label',)).column('label')
    assert np.bincount(labels).tolist() == chosen.class_counts['train']


def test_arranged_splits_count_through_all_records(prepared, drawn):
    n = sum(prepared.counts.values())
    numbers = np.random.default_rng(0).permutation(n)[:17]
    arranged = prepared.arranged({'some': numbers})
    found = Records(arranged, 'some', ('image_id',)).column('image_id')
    assert found.tolist() == [drawn[0][k] for k in numbers]
    assert arranged.counts == {'some': 17} and arranged.fingerprint != prepared.fingerprint


def test_missing_stale_and_damaged_masks_are_explained(prepared, with_masks):
    with pytest.raises(UserError) as caught:
        prepared.with_masks('unknown')
    text = str(caught.value)
    assert 'python -m cxr_jax.segment apply' in text and '--name unknown' in text
    assert f'--config.data.name={prepared.name}' in text and 'drawn' in text
    other = dataclasses.replace(prepared, card=prepared.card | {'fingerprint': 'another'})
    with pytest.raises(UserError, match='another preparation'):
        open_masks(other, 'drawn')
    folder = prepared.directory / 'masks'
    shutil.copytree(folder / 'drawn', folder / 'cut')
    content = (folder / 'cut' / 'masks.npz').read_bytes()
    (folder / 'cut' / 'masks.npz').write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match='cannot be read'):
        open_masks(prepared, 'cut')


def test_hopeless_masks_and_names_are_refused(prepared, drawn):
    ids, masks = drawn
    with pytest.raises(UserError, match='no lung found'):
        write_masks(prepared, 'empty', ids, [0 * mask for mask in masks], {})
    assert not (prepared.directory / 'masks' / 'empty').exists()
    with pytest.raises(UserError, match='cannot name'):
        write_masks(prepared, '../x', ids, masks, {})
