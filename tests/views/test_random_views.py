"""Random views by what they draw: rectangles, angles and factors, each from its distribution."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cxr_jax.tasks.moco import MoCo
from cxr_jax.tasks.swav import SwAV
from cxr_jax.views import geometry, intensity
from cxr_jax.views.augment import Augmentation

PLAIN = Augmentation(flip=0.0)
# Correct code passes with these keys; a wrong distribution gives far less.
P_VALUE = 1e-3


def keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def noise(height: int, width: int, seed: int = 0):
    image = np.random.default_rng(seed).random((height, width, 1), np.float32)
    return jnp.asarray(image)


@pytest.fixture
def rectangles(monkeypatch):
    """Replaces crops by the rectangle they are of: [top, left, height, width, size, flip]."""

    def rectangle(image, top, left, height, width, size, flip=False):
        return jnp.stack([top, left, height, width, size, flip])

    monkeypatch.setattr(geometry, 'crop_resize', rectangle)


def test_random_crops_have_the_stated_distribution(rectangles):
    image, low, high = jnp.zeros((90, 120, 1)), 0.1, 0.4
    draw = jax.vmap(lambda k: geometry.random_resized_crop(k, image, 8, (low, high), 0.3))
    top, left, height, width, _, flip = np.asarray(draw(keys(4000)), np.float64).T
    # Areas up to 0.4 of this image fit with every aspect ratio, so nothing is shortened.
    uniform = {
        'area': (height * width / (90 * 120) - low) / (high - low),
        'ratio': (np.log(width / height) / np.log(4 / 3) + 1) / 2,
        'top': top / (90 - height),
        'left': left / (120 - width),
    }
    for name, values in uniform.items():
        assert values.min() > -1e-5 and values.max() < 1 + 1e-5, name
        assert stats.kstest(values, 'uniform').pvalue > P_VALUE, name
    names = list(uniform)
    correlation = np.corrcoef([*uniform.values(), flip]) - np.eye(len(names) + 1)
    assert abs(correlation).max() < 0.06
    assert stats.binomtest(int(flip.sum()), len(flip), 0.3).pvalue > P_VALUE


def test_random_crops_never_leave_the_image(rectangles):
    image = jnp.zeros((60, 100, 1))
    draw = jax.vmap(lambda k: geometry.random_resized_crop(k, image, 8, (0.8, 1.0), 0.5))
    top, left, height, width, _, _ = np.asarray(draw(keys(1000))).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 60 + 1e-4 and (left + width).max() <= 100 + 1e-4
    area = height * width / 6000
    assert area.max() <= 1 + 1e-6 and (height == 60).any() and height.min() > 30
    # Only the side that would leave the image is shortened: the other one fits a ratio in range.
    inside = height < 60
    assert (area[inside & (width < 100)] >= 0.8 - 1e-5).all()


def test_same_key_same_view():
    image, augment = noise(32, 32), dataclasses.replace(PLAIN, jitter=0.5, blur=0.5, rotation=9.0)
    view = jax.jit(lambda key: augment(key, image, 12))
    first, second = jax.random.split(jax.random.key(3))
    np.testing.assert_array_equal(view(first), view(first))
    assert abs(view(first) - view(second)).max() > 0.05


def test_brightness_multiplies_and_contrast_stretches_about_the_mean():
    image = 0.4 + 0.2 * noise(9, 9)  # nothing is clipped with these ranges
    draw = jax.vmap(lambda k: intensity.random_brightness_contrast(k, image, 0.3, 0.5))
    changed = np.asarray(draw(keys(3000)), np.float64)
    brightness = changed.mean((1, 2, 3)) / image.mean()
    contrast = changed.std((1, 2, 3)) / np.std(image) / brightness
    for factor, limit in ((brightness, 0.3), (contrast, 0.5)):
        uniform = (factor - 1 + limit) / (2 * limit)
        assert uniform.min() > -1e-4 and uniform.max() < 1 + 1e-4
        assert stats.kstest(uniform, 'uniform').pvalue > P_VALUE
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.06
    pixels = np.asarray(image, np.float64)
    for view, b, c in zip(changed[:20], brightness, contrast, strict=False):
        expected = pixels.mean() * b + (pixels - pixels.mean()) * b * c
        np.testing.assert_allclose(view, expected, atol=1e-6)


def test_flip_mirrors_with_its_probability():
    image = noise(16, 16)

    @jax.jit
    def views(flip):
        return jax.vmap(lambda k: dataclasses.replace(PLAIN, flip=flip)(k, image, 8))(keys(600))

    plain, mirrored = views(0.0), views(1.0)
    np.testing.assert_allclose(mirrored, plain[:, :, ::-1], atol=1e-6)
    changed = abs(views(0.3) - plain).max((1, 2, 3)) > 1e-6
    assert stats.binomtest(int(changed.sum()), 600, 0.3).pvalue > P_VALUE


def test_parts_are_switched_on_with_their_probability_and_off_by_zero(monkeypatch):
    image = noise(16, 16)

    def views(**settings):
        augment = dataclasses.replace(PLAIN, **settings)
        return jax.jit(jax.vmap(lambda k: augment(k, image, 8)))(keys(600))

    with monkeypatch.context() as patch:
        patch.delattr(geometry, 'rotate')
        patch.delattr(intensity, 'random_brightness_contrast')
        patch.delattr(intensity, 'gaussian_blur')
        patch.delattr(intensity, 'solarize')
        plain = views()
    changed = {
        'jitter': views(jitter=0.3, brightness=0.4),
        'blur': views(blur=0.3, blur_sigma=(1.0, 2.0)),
        'solarize': views(solarize=0.3),
    }
    changed = {name: abs(v - plain).max((1, 2, 3)) > 1e-6 for name, v in changed.items()}
    for name, rows in changed.items():
        assert stats.binomtest(int(rows.sum()), 600, 0.3).pvalue > P_VALUE, name
    for one, other in itertools.combinations(changed.values(), 2):
        assert stats.binomtest(int((one & other).sum()), 600, 0.09).pvalue > P_VALUE
    always = views(jitter=1.0, brightness=0.0, contrast=0.0, blur=1.0, blur_sigma=(0.01, 0.02))
    np.testing.assert_allclose(always, plain, atol=1e-6)


@pytest.mark.parametrize(
    ('patched', 'settings', 'low', 'high'),
    [
        ((geometry, 'rotate'), {'rotation': 20.0}, -np.pi / 9, np.pi / 9),
        ((intensity, 'gaussian_blur'), {'blur': 1.0, 'blur_sigma': (0.1, 2.0)}, 0.1, 2.0),
    ],
)
def test_angles_and_widths_are_uniform_in_their_range(monkeypatch, patched, settings, low, high):
    monkeypatch.setattr(*patched, lambda image, value: jnp.full(image.shape, value))
    augment = dataclasses.replace(PLAIN, **settings)
    draw = jax.vmap(lambda k: augment(k, jnp.zeros((6, 6, 1)), 4).mean())
    drawn = np.asarray(draw(keys(2000)), np.float64)
    assert low - 1e-5 <= drawn.min() and drawn.max() <= high + 1e-5
    assert stats.kstest((drawn - low) / (high - low), 'uniform').pvalue > P_VALUE


def test_mocos_two_views_are_drawn_alike_but_apart(rectangles):
    task = MoCo(image_size=8, augment=dataclasses.replace(PLAIN, crop_scale=(0.2, 0.5)))
    image = jnp.zeros((32, 32, 1))
    views = jax.vmap(lambda k: task.views(k, {'image': image}))(keys(1000))
    query, key = (np.asarray(views[name], np.float64) for name in ('query', 'key'))
    assert np.all(query[:, :4] != key[:, :4])
    area = [v[:, 2] * v[:, 3] / 32**2 for v in (query, key)]
    assert abs(np.corrcoef(area)[0, 1]) < 0.1
    assert stats.ks_2samp(*area).pvalue > P_VALUE
    assert np.min(area) >= 0.2 - 1e-5 and np.max(area) <= 0.5 + 1e-5


def test_swavs_crops_have_the_areas_and_sizes_of_the_paper(rectangles):
    task, image = SwAV(augment=SwAV().augment), jnp.zeros((256, 256, 1))
    task = dataclasses.replace(task, augment=dataclasses.replace(task.augment, jitter=0, blur=0))
    views = jax.vmap(lambda k: task.views(k, {'image': image}))(keys(1500))
    large, small = (np.asarray(views[name], np.float64) for name in ('large', 'small'))
    assert large.shape == (1500, 2, 6) and small.shape == (1500, 6, 6)
    assert (large[..., 4] == 224).all() and (small[..., 4] == 96).all()
    areas = {name: v[..., 2] * v[..., 3] / 256**2 for name, v in views.items()}
    share = (np.asarray(areas['small']) - 0.05) / 0.09
    assert share.min() > -1e-4 and share.max() < 1 + 1e-4
    assert stats.kstest(share.ravel(), 'uniform').pvalue > P_VALUE
    assert areas['large'].min() >= 0.14 - 1e-4 and 0.85 < areas['large'].max() <= 1
    # All eight crops are drawn apart.
    everyone = np.concatenate([areas['large'], areas['small']], axis=1)
    assert abs(np.corrcoef(everyone.T) - np.eye(8)).max() < 0.12


def test_views_of_a_batch_are_those_of_its_examples():
    """In shape, and whatever the other rows are."""
    images = jnp.stack([noise(40, 40, seed) for seed in range(3)])
    task = SwAV(image_size=24, small_size=16, small_crops=1)
    batch = jax.jit(jax.vmap(lambda k, x: task.views(k, {'image': x})))(keys(3), images)
    assert batch['large'].shape == (3, 2, 24, 24, 1) and batch['small'].shape == (3, 1, 16, 16, 1)
    single = jax.jit(lambda k, x: task.views(k, {'image': x}))
    for i, key in enumerate(keys(3)):
        alone = single(key, images[i])
        for name, views in batch.items():
            np.testing.assert_allclose(views[i], alone[name], atol=1e-6)
    assert abs(batch['large'][:, 0] - batch['large'][:, 1]).max((1, 2, 3)).min() > 0.05


def test_blur_of_sigma_zero_is_no_blur():
    image = noise(9, 7)
    np.testing.assert_array_equal(intensity.gaussian_blur(image, jnp.zeros(())), image)
