"""Loss and overlap against closed forms, views that move mask and image together, the commands."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.segment import get_config
from cxr_jax import segment
from cxr_jax.evaluation.overlap import dice_and_iou, mean_figures
from cxr_jax.report.segmentation import choose
from cxr_jax.run import segmenter
from cxr_jax.tasks.segment import Segment, soft_dice, standardised
from cxr_jax.views.occlusion import block_out, diffuse_noise
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import open_prepared
from data_pipelines.prepared.loader import eval_batches
from tests import tiny

SIZE = 32


def two_lungs(size=SIZE):
    mask = np.zeros((size, size, 1), np.uint8)
    mask[6:26, 4:13] = mask[8:26, 18:28] = 1
    return mask


def test_dice_and_iou_of_two_squares():
    predicted, true = np.zeros((2, 10, 10), bool)
    predicted[:4, :4] = true[2:6, 2:6] = True
    assert dice_and_iou(predicted, true) == (2 * 4 / 32, 4 / 28)
    assert dice_and_iou(true, true) == (1, 1) and dice_and_iou(~true, true) == (0, 0)
    assert np.isnan(dice_and_iou(0 * true, 0 * true)).all()


def test_figures_are_means_over_images_with_whole_patients_drawn():
    values = {'dice': np.array([0.9, 0.7, 0.2])}
    found = mean_figures(values, ['a', 'a', 'b'], resamples=4000)['dice']
    # Two patients: both draws are a with probability 1/4, both b with 1/4, else each once.
    assert found['value'] == pytest.approx(0.6)
    assert (found['low'], found['high']) == (pytest.approx(0.2), pytest.approx(0.8))
    alone = mean_figures(values, ['a', 'a', 'a'])['dice']
    assert alone['low'] is None and 'one patient' in alone['reason']


def test_loss_is_cross_entropy_plus_soft_dice():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, 8, 1))
    mask = (rng.random((3, 8, 8, 1)) > 0.6).astype(float)
    p = 1 / (1 + np.exp(-logits))
    entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean()
    sums = [x.sum((1, 2, 3)) for x in (p * mask, p, mask)]
    overlap = ((2 * sums[0] + 1) / (sums[1] + sums[2] + 1)).mean()

    def network(params, stats, images):
        return images, stats

    state = tiny_state()
    loss, (_, _, metrics) = Segment().loss(
        network, {'backbone': {}}, state, {'image': jnp.asarray(logits), 'mask': mask}, None
    )
    assert loss == pytest.approx(entropy + 1 - overlap, rel=1e-5)
    hard = [dice_and_iou(a > 0, b)[0] for a, b in zip(logits, mask, strict=True)]
    assert metrics['dice'] == pytest.approx(np.mean(hard), abs=0.02)


def tiny_state():
    @dataclasses.dataclass
    class State:
        batch_stats: dict

    return State({'backbone': {}})


def test_chance_loss_is_that_of_one_half_everywhere():
    mask = np.zeros((1, 64, 64, 1))
    mask[:, :32, :32] = 1
    value = np.log(2) + 1 - soft_dice(jnp.full(mask.shape, 0.5), mask)[0]
    assert Segment().chance_loss() == pytest.approx(float(value), abs=1e-3)


def test_views_move_image_and_mask_together():
    plain = Segment(image_size=24, brightness=0.0, contrast=0.0, blocks=0, noise=0.0, still=0.0)
    mask = two_lungs()
    example = {'image': jnp.asarray(mask, float), 'lung_mask': mask}
    view = jax.jit(plain.views)
    seen = set()
    for seed in range(12):
        moved = view(jax.random.key(seed), example)
        lungs = moved['mask'] > 0
        assert set(np.unique(moved['mask'])) == {0, 1}
        # Of an image that is its own mask, the lungs are exactly what is brighter than the rest.
        assert moved['image'][lungs].min() > moved['image'][~lungs].max()
        seen.add(lungs.tobytes())
    assert len(seen) == 12


def test_still_views_are_the_image_or_its_mirror_image():
    still = Segment(image_size=SIZE, brightness=0.0, contrast=0.0, blocks=0, noise=0.0, still=1.0)
    image, mask = np.random.default_rng(4).random((SIZE, SIZE, 1)), two_lungs()
    view = jax.jit(still.views)
    mirrored = 0
    for seed in range(8):
        found = view(jax.random.key(seed), {'image': jnp.asarray(image), 'lung_mask': mask})
        side = slice(None, None, -1 if (found['mask'] != mask).any() else 1)
        np.testing.assert_array_equal(found['mask'], mask[:, side])
        np.testing.assert_allclose(found['image'], standardised(image)[:, side], atol=1e-5)
        mirrored += side.step == -1
    assert 0 < mirrored < 8


def test_opacities_leave_the_mask_whole():
    heavy = Segment(image_size=24, blocks=3, block_probability=1.0, noise=1.0)
    bare = dataclasses.replace(heavy, blocks=0, noise=0.0)
    rng = np.random.default_rng(0)
    example = {'image': jnp.asarray(rng.random((SIZE, SIZE, 1))), 'lung_mask': two_lungs()}
    for seed in range(3):
        painted, clear = (task.views(jax.random.key(seed), example) for task in (heavy, bare))
        np.testing.assert_array_equal(painted['mask'], clear['mask'])
        assert not np.allclose(painted['image'], clear['image'], atol=0.1)


def test_a_block_is_a_bright_rectangle_about_a_lung_pixel():
    image, mask = jnp.full((SIZE, SIZE, 1), 0.3), jnp.asarray(two_lungs(), float)
    paint = jax.jit(lambda key: block_out(key, image, mask, 1.0, (0.15, 0.4), 0.85))
    centres = []
    for seed in range(40):
        painted = np.asarray(paint(jax.random.key(seed)))[..., 0]
        rows, columns = np.nonzero(painted != np.float32(0.3))
        assert (painted[rows, columns] == np.float32(0.85)).all()
        top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width  # nothing is left out of the rectangle
        assert height <= 0.4 * SIZE + 1 and width <= 0.4 * SIZE + 1
        if min(top, left) > 0 and max(top + height, left + width) < SIZE:
            centre = top + height // 2, left + width // 2
            assert mask[centre] > 0 and height >= 0.15 * SIZE - 1
            centres.append(centre[1] < SIZE // 2)
    assert 0 < sum(centres) < len(centres)  # both lungs
    never = block_out(jax.random.key(0), image, mask, 0.0, (0.2, 0.4), 0.85)
    no_lung = block_out(jax.random.key(0), image, 0 * mask, 1.0, (0.2, 0.4), 0.85)
    assert (never == image).all() and (no_lung == image).all()


def test_diffuse_noise_stays_inside_the_lungs_and_its_range():
    mask = jnp.asarray(two_lungs(), float)
    image = jnp.full((SIZE, SIZE, 1), 0.4)
    for seed in range(5):
        change = diffuse_noise(jax.random.key(seed), image, mask, 1.0, -0.1, 0.5) - image
        inside = change[mask > 0]
        assert (change[mask == 0] == 0).all()
        assert -0.1 - 1e-6 <= inside.min() < inside.max() <= 0.5 + 1e-6 and inside.std() > 0.02


def test_exposure_does_not_change_what_the_network_sees():
    image = np.random.default_rng(1).random((SIZE, SIZE, 1)).astype(np.float32)
    seen = standardised(jnp.asarray(image))
    np.testing.assert_allclose(seen.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(), 1, atol=1e-3)
    np.testing.assert_allclose(standardised(0.4 * image + 0.2), seen, atol=1e-3)


def test_the_gallery_shows_both_ends():
    rows = [{'dice': d} for d in np.random.default_rng(0).permutation(40) / 40]
    shown = [row['dice'] for row in choose(rows)]
    assert shown == sorted(shown) and len(shown) == 12
    assert shown[:4] == [0, 1 / 40, 2 / 40, 3 / 40] and shown[-1] == 39 / 40
    assert choose(rows[:5]) == sorted(rows[:5], key=lambda row: row['dice'])


def small_config(data, **changes) -> ConfigDict:
    config = get_config()
    config.update_from_flattened_dict({
        'data.dir': str(data.directory.parents[1]), 'data.size': tiny.SIZE, 'network.width': 4,
        'network.depth': 2, 'eval.batch_size': 16, 'eval.resamples': 50,
        'stage.segment.epochs': 3, 'stage.segment.batch_size': 8,
        'stage.segment.task.image_size': tiny.SIZE,
    } | changes)  # fmt: skip
    return ConfigDict(config.to_dict())


@pytest.fixture
def one_device(monkeypatch):
    mesh = tiny.one_device()
    monkeypatch.setattr(segment.parallel, 'data_mesh', lambda devices=None: mesh)


def test_train_reports_saves_and_finds_itself_finished(tiny_data, tmp_path, one_device, capsys):
    config, workdir = small_config(tiny_data), tmp_path / 'runs' / 'segment'
    results = segment.train(config, tiny_data, workdir, 'the command')
    test = json.loads((workdir / 'results.json').read_text())['test']
    assert test['images'] == tiny_data.counts['test']
    assert 0 <= test['dice']['low'] <= test['dice']['value'] <= test['dice']['high'] <= 1
    page = (workdir / 'results.md').read_text()
    assert f'{test["dice"]["value"]:.3f}' in page and 'the command' in page
    assert all((workdir / name).is_file() for name in ('gallery.png', 'curves.png'))
    again = segment.train(config, tiny_data, workdir, 'another command')
    assert again['test'] == test and again['command'] == 'the command'
    with pytest.raises(UserError, match='other settings'):
        segment.train(small_config(tiny_data, seed=1), tiny_data, workdir, '')

    # What was saved predicts what was tested.
    predict, settings = segmenter.load(workdir, 16, tiny.one_device())
    dice = [
        dice_and_iou(mask, record['lung_mask'][..., 0])[0]
        for record, mask in segmenter.predicted_masks(predict, tiny_data, 'test', 16)
    ]
    assert np.mean(dice) == pytest.approx(results['test']['raw_dice']['value'])
    assert settings['weights_sha256'] == results['weights_sha256']
    assert settings['test']['dice'] == results['test']['dice']


def test_every_masked_image_is_tested_once_by_folds_of_patients(tiny_data):
    parts = segment.masked_parts(tiny_data, 4)
    n = sum(tiny_data.counts.values())
    tested = np.concatenate([part.rows['test'] for part in parts])
    assert sorted(tested) == list(range(n))
    for part in parts:
        assert sorted([*part.rows['train'], *part.rows['test']]) == list(range(n))
        patients = [
            set(np.concatenate([b['patient'][b['valid']] for b in eval_batches(part, split, 16)]))
            for split in ('train', 'test')
        ]
        assert not patients[0] & patients[1]
    (own,) = segment.masked_parts(tiny_data, 0)
    assert own.counts == {split: tiny_data.counts[split] for split in ('train', 'test')}
    assert own.rows['test'][0] == tiny_data.counts['train'] + tiny_data.counts['validation']


def test_apply_writes_masks_that_a_curriculum_can_open(tiny_data, capsys):
    truth = {}
    for split in tiny_data.counts:
        for batch in eval_batches(tiny_data, split, 16):
            for image, mask in zip(batch['image'], batch['lung_mask'], strict=True):
                truth[image.tobytes()] = mask[..., 0]
    spoilt = next(iter(truth))
    truth[spoilt] = 0 * truth[spoilt]

    def predict(images):
        return np.stack([truth[image.tobytes()] for image in images]) > 0

    card = segment.apply(small_config(tiny_data), tiny_data, 'oracle', predict, {'model': 'true'})
    printed = capsys.readouterr().out
    assert 'no lung found' in printed and card['reasons']['no lung found'] == 1
    opened = open_prepared(tiny_data.directory.parents[1], tiny_data.name, tiny_data.size, 'oracle')
    assert opened.counts['train'] == card['accepted']['train']['images']
    for batch in eval_batches(opened, 'train', 8):
        for image, mask in zip(batch['image'], batch['lung_mask'], strict=True):
            assert dice_and_iou(mask[..., 0], truth[image.tobytes()])[0] > 0.98


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        ({'stage.segment.task.image_size': 36}, 'multiple of 8'),
        ({'stage.segment.batch_size': 1000}, 'at most the'),
        ({'folds': 1}, 'folds'),
        ({'network.width': 0}, 'network.width'),
        ({'eval.batch_size': 0}, 'eval.batch_size'),
    ],
)
def test_impossible_settings_are_refused_before_training(
    changes, word, tiny_data, tmp_path, one_device
):
    with pytest.raises(UserError, match=word):
        segment.train(small_config(tiny_data, **changes), tiny_data, tmp_path / 'run', '')
    assert not list(tmp_path.iterdir())


def test_a_folder_without_segmenter_is_explained(tmp_path):
    with pytest.raises(UserError, match='segment train'):
        segmenter.load(tmp_path, 8, tiny.one_device())


def test_unknown_presets_are_refused():
    assert get_config('full').stage.segment.task.image_size == 256
    with pytest.raises(UserError, match='demo, full'):
        get_config('small')
