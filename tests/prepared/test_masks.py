"""Quality control against drawn shapes; the sidecar's round trip, statistics and regions."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.prepare import prepare
from data_pipelines.prepared.data import SPLITS, open_prepared
from data_pipelines.prepared.loader import eval_batches, train_batches, whole
from data_pipelines.prepared.lung_quality import Quality, checked, two_largest
from data_pipelines.prepared.mask_store import open_masks
from data_pipelines.prepared.masks import write_masks
from data_pipelines.prepared.sampler import Sampler

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


SIZE, IMAGES = 40, 48


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A set that sidecars may be written into."""
    folder = tmp_path_factory.mktemp('sidecar')
    return prepare('synthetic_cxr', None, folder, SIZE, images=IMAGES, processes=1)


@pytest.fixture(scope='module')
def drawn():
    """Plausible ellipses of varying size; every seventh image has one lung only."""
    masks = []
    for k in range(IMAGES):
        height = 0.4 + 0.01 * (k % 20)
        left, right = (ellipse(x, 0.5, 0.25, height, SIZE) for x in (0.3, 0.7))
        masks.append(left if k % 7 == 3 else left | right)
    return masks


@pytest.fixture(scope='module')
def card(prepared, drawn):
    return write_masks(prepared, 'drawn', iter(drawn), {'model': 'ellipses'})


@pytest.fixture(scope='module')
def with_masks(prepared, card):
    return open_prepared(prepared.data_dir, prepared.name, prepared.size, 'drawn')


KEPT = np.array([k for k in range(IMAGES) if k % 7 != 3])


def test_accepted_masks_come_back_through_the_loader(prepared, with_masks, drawn):
    assert with_masks.rows.tolist() == KEPT.tolist() and prepared.rows.tolist() == [*range(IMAGES)]
    for split in (None, 'train', 'test'):
        corpus = with_masks.corpus(split)
        rows = KEPT if split is None else KEPT[prepared.index.split[KEPT] == split]
        assert corpus.has_lung_masks and len(corpus) == len(rows)
        batches = list(eval_batches(corpus, 5))
        found = {
            name: np.concatenate([batch[name][batch['valid']] for batch in batches])
            for name in ('image_id', 'lung_mask', 'has_lung_mask', 'image')
        }
        assert found['image_id'].tolist() == prepared.index.image_id[rows].tolist()
        np.testing.assert_array_equal(found['lung_mask'][..., 0], [drawn[k] for k in rows])
        np.testing.assert_array_equal(found['image'], whole(prepared.corpus())['image'][rows])
        assert found['has_lung_mask'].all() and found['lung_mask'].dtype == np.uint8
    corpus = with_masks.corpus('train')
    batches = train_batches(corpus, Sampler(corpus, 4, 0), fields=('lung_mask', 'row'))
    batch, rows = next(batches), KEPT[prepared.index.split[KEPT] == 'train']
    for mask, row in zip(batch['lung_mask'], batch['row'], strict=True):
        np.testing.assert_array_equal(mask[..., 0], drawn[rows[row]])


def test_rejected_images_are_listed_and_counted(prepared, card):
    folder, index = prepared.directory / 'masks' / 'drawn', prepared.index
    with (folder / 'rejected.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['image_id'] for row in rows] == index.image_id[3::7].tolist()
    assert [row['split'] for row in rows] == index.split[3::7].tolist()
    assert {row['reason'] for row in rows} == set(card['reasons'])
    stored = json.loads((folder / 'card.json').read_text())
    assert stored == card and stored['origin'] == {'model': 'ellipses'}
    accepted = np.isin(np.arange(IMAGES), KEPT)
    for part, where in (('accepted', accepted), ('rejected', ~accepted)):
        for split, counts in card[part].items():
            own = where & (index.split == split)
            shown = (index.labels[own] == 1).sum(0).tolist()
            assert counts == {'images': own.sum(), 'names': shown}
    assert card['names'] == list(prepared.names) and set(card['accepted']) == set(SPLITS)
    assert (folder / 'contact_sheet.png').stat().st_size > 10_000


def test_statistics_are_those_of_the_new_masks(with_masks, drawn):
    corpus = with_masks.corpus('train')
    x = whole(corpus)['image'][..., 0] / 255
    lungs = np.stack([drawn[k] for k in corpus.parts[0][1]])
    regions = {
        'full': x,
        'lungs_black': np.where(lungs, x, 0),
        'lungs_gray': np.where(lungs, x, x.mean()),
        'background': np.where(lungs, 0, x),
    }
    for region, pixels in regions.items():
        found = corpus.statistics(region)
        assert found['mean'] == pytest.approx(pixels.mean(), rel=1e-9)
        assert found['std'] == pytest.approx(pixels.std(), rel=1e-9)


def test_the_fingerprints_follow_the_masks(prepared, with_masks, drawn, card):
    again = write_masks(prepared, 'again', drawn, {'model': 'the same by another name'})
    changed = [*drawn[:-1], drawn[-1] & (np.arange(SIZE) != 12)]
    other = write_masks(prepared, 'other', changed, {})
    assert again['fingerprint'] == card['fingerprint'] != other['fingerprint']
    opened = [prepared.with_masks(name) for name in ('drawn', 'again', 'other')]
    for prints in ([p.fingerprint for p in opened], [p.corpus().fingerprint for p in opened]):
        assert prints[0] == prints[1] != prints[2]
    kept = prepared.corpus().take(KEPT)
    assert len({kept.fingerprint, opened[0].corpus().fingerprint, prepared.fingerprint}) == 3
    # Of the images whose masks are the same nothing has changed.
    first = (p.corpus().take(np.arange(5)).fingerprint for p in opened)
    assert len(set(first)) == 1


def test_stored_masks_written_again_are_the_same_corpus(prepared):
    """The sidecar's sums and hashes are computed as those of the preparation."""
    truth = whole(prepared.corpus(), ('lung_mask',))['lung_mask'][..., 0]
    anything = Quality(0, 1, 0, 1, 0, 0, 1, 0, 1)
    write_masks(prepared, 'truth', truth, {}, anything)
    opened = prepared.with_masks('truth')
    # The check fills holes and takes two regions only; most masks have nothing to be cleaned of.
    same = opened.index.mask_content == prepared.index.mask_content
    assert same.sum() > IMAGES / 2
    np.testing.assert_array_equal(opened.index.lung_sums[same], prepared.index.lung_sums[same])
    part, own = (p.corpus().take(np.isin(p.rows, np.flatnonzero(same))) for p in (opened, prepared))
    assert part.fingerprint == own.fingerprint


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
    with pytest.raises(UserError, match='no lung found'):
        write_masks(prepared, 'empty', [0 * mask for mask in drawn], {})
    assert not (prepared.directory / 'masks' / 'empty').exists()
    with pytest.raises(UserError, match='cannot name'):
        write_masks(prepared, '../x', drawn, {})
    with pytest.raises(ValueError, match='shorter|argument'):
        write_masks(prepared, 'few', drawn[:-1], {})
