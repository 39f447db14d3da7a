"""The segmenter's loss against closed forms; views that move mask and image together."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluation.measures.segmentation import dice_and_iou
from cxr_jax.models.encoder import Features
from cxr_jax.tasks.segment import Segment, soft_dice, standardised
from cxr_jax.views.occlusion import block_out, diffuse_noise

SIZE = 32


def two_lungs(size=SIZE):
    mask = np.zeros((size, size, 1), np.uint8)
    mask[6:26, 4:13] = mask[8:26, 18:28] = 1
    return mask


def test_loss_is_cross_entropy_plus_soft_dice():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, 8, 1))
    mask = (rng.random((3, 8, 8, 1)) > 0.6).astype(float)
    p = 1 / (1 + np.exp(-logits))
    entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean()
    sums = [x.sum((1, 2, 3)) for x in (p * mask, p, mask)]
    overlap = ((2 * sums[0] + 1) / (sums[1] + sums[2] + 1)).mean()

    def network(params, stats, images):
        return Features({'logits': images}, None, stats)

    state, views = SimpleNamespace(batch_stats={'encoder': {}}), {'image': jnp.asarray(logits)}
    loss, aux = Segment().loss(network, {'encoder': {}}, state, views | {'mask': mask}, None)
    metrics = aux.metrics
    assert loss == pytest.approx(entropy + 1 - overlap, rel=1e-5)
    assert metrics['cross_entropy'] == pytest.approx(entropy, rel=1e-5)
    hard = [dice_and_iou(a > 0, b)[0] for a, b in zip(logits, mask, strict=True)]
    assert metrics['dice'] == pytest.approx(np.mean(hard), abs=0.02)


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
