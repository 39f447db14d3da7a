"""Models Genesis: what each distortion does and how often, counted and painted by NumPy."""

import dataclasses
import functools
import itertools
import random

import jax
import numpy as np
import pytest

from cxr_jax.tasks.genesis import Genesis, bezier_curve
from cxr_jax.train import state as states
from cxr_jax.train.optim import OptimizerSettings, optimizer
from cxr_jax.views import distortion
from data_pipelines.errors import UserError
from tests.tasks.one_step import SIZE, first_state, tiny_encoder

DRAWS = 400
RATES = ('flip', 'shuffle', 'nonlinear', 'paint', 'inpaint')
last_window = jax.jit(distortion.last_window, static_argnums=2)


def numbered(size):
    """An image in which every pixel has a value of its own."""
    return np.arange(size**2, dtype=np.float32).reshape(size, size, 1)


def drawn(function, size, count=DRAWS):
    """function(key, image) of `count` keys, the image being `numbered`."""
    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(jax.jit(jax.vmap(function, (0, None)))(keys, numbered(size)))[..., 0]


@functools.cache
def compiled():
    def views(rates, key):
        task = dataclasses.replace(Genesis(image_size=SIZE), **dict(zip(RATES, rates, strict=True)))
        return task.views(key, {'image': numbered(SIZE) / SIZE**2})

    return jax.jit(jax.vmap(views, (None, 0)))


def views_at(**rates):
    """(clean, image) [DRAWS, S, S] at rates that are 0 if not given; always by the same keys."""
    keys = jax.random.split(jax.random.key(7), DRAWS)
    found = compiled()(np.array([rates.get(name, 0.0) for name in RATES]), keys)
    return [np.asarray(found[name])[..., 0] for name in ('clean', 'image')]


@pytest.mark.parametrize(('size', 'count'), [(16, 479), (64, 625), (224, 709)])
def test_windows_cover_as_much_as_the_reference(size, count):
    """1.9 times the image, not the 10,000 windows of its cubes: 26 times at 224 pixels."""
    corners, sides = jax.device_get(distortion.shuffle_windows(jax.random.key(0), size))
    assert corners.shape == sides.shape == (count, 2)
    assert sides.min() == 1 and sides.max() == max(size // 10, 1)
    assert corners.min() == 0 and (corners + sides).max() == size
    assert sides.prod(1).sum() / size**2 == pytest.approx(1.87, rel=0.08)


@pytest.mark.parametrize('size', [24, 45])
def test_last_window_is_the_one_painted_last(size):
    corners, sides = jax.device_get(distortion.shuffle_windows(jax.random.key(1), size))
    painted = np.full((size, size), -1)
    for number, ((top, left), (height, width)) in enumerate(zip(corners, sides, strict=True)):
        painted[top : top + height, left : left + width] = number
    np.testing.assert_array_equal(last_window(corners, sides, size), painted)


def test_permutations_are_permutations_and_all_are_as_likely():
    seeds = np.asarray(jax.random.bits(jax.random.key(0), (6000, 1)))
    permuted = jax.jit(distortion.permuted)
    for count in (1, 2, 3, 7, 24, 484):
        cells = np.broadcast_to(np.arange(count), (len(seeds) if count == 3 else 50, count))
        found = np.asarray(permuted(cells, count, seeds[: len(cells)]))
        np.testing.assert_array_equal(np.sort(found, 1), cells)
        if count == 3:
            _, times = np.unique(found, axis=0, return_counts=True)
            # Chi-squared with 5 degrees of freedom: above 20 once in a thousand.
            assert len(times) == 6 and (np.square(times - 1000) / 1000).sum() < 20


def test_shuffled_pixels_come_from_their_window_of_the_original():
    size, key = 45, jax.random.key(3)
    found = np.asarray(jax.jit(distortion.shuffle_locally)(key, numbered(size))).reshape(size, size)
    windows = distortion.shuffle_windows(jax.random.split(key)[0], size)
    last = np.asarray(last_window(*windows, size))
    rows, columns = np.divmod(found.astype(int), size)
    for number in np.unique(last):
        here = last == number
        if number < 0:
            np.testing.assert_array_equal(found[here], numbered(size)[here][:, 0])
            continue
        (top, left), (height, width) = (np.asarray(x[number]) for x in windows)
        assert ((rows[here] >= top) & (rows[here] < top + height)).all()
        assert ((columns[here] >= left) & (columns[here] < left + width)).all()
        assert len(np.unique(found[here])) == here.sum()
    # Not a permutation of the whole image; and most of it moves, but not far.
    assert len(np.unique(found)) < size**2
    assert 0.5 < (found != numbered(size)[..., 0]).mean() < 0.85
    assert abs(rows - np.arange(size)[:, None]).max() < size // 10


@pytest.mark.parametrize('inside', [0.0, 1.0])
def test_painted_share_is_that_of_the_reference(inside):
    """Against the same loops of coins in Python's own random numbers."""
    size, rng = 36, random.Random(0)
    pixels = 1e6 + numbered(size)[..., 0]  # noise is below 1
    painted = drawn(lambda key, image: distortion.paint(key, 1e6 + image, inside), size)
    noise = painted < 1
    assert (painted == pixels)[~noise].all()

    def box(mask, low, high, value):
        height, width = (rng.randint(low, high) for _ in range(2))
        top, left = rng.randint(3, size - height - 3), rng.randint(3, size - width - 3)
        mask[top : top + height, left : left + width] = value

    def reference():
        mask, left = np.full((size, size), not inside), 5
        if not inside:
            box(mask, size - 4 * size // 7, size - 3 * size // 7, False)
            left -= 1
        while left and rng.random() < 0.95:
            box(mask, size // 6, size // 3, True) if inside else box(
                mask, size - 4 * size // 7, size - 3 * size // 7, False
            )
            left -= 1
        return mask

    expected = np.stack([reference() for _ in range(DRAWS)])
    shares = [each.mean((1, 2)) for each in (noise, expected)]
    error = np.hypot(*(share.std() for share in shares)) / DRAWS**0.5
    assert abs(shares[0].mean() - shares[1].mean()) < 4 * error
    assert shares[0].std() == pytest.approx(shares[1].std(), rel=0.2)
    # The margin is never touched from inside, and the noise is a new uniform number per pixel.
    frame = np.ones((size, size), bool)
    frame[3:-3, 3:-3] = False
    assert (noise[:, frame] == (not inside)).all()
    values = painted[noise]
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert values.var() == pytest.approx(1 / 12, rel=0.03)
    assert len(np.unique(values)) > 0.9 * min(len(values), 2**23)


def test_flips_come_as_often_as_the_turns_say():
    rate, size = 0.4, 5
    image = numbered(size)[..., 0]
    flipped = drawn(lambda key, image: distortion.random_flips(key, image, rate), size, 2000)
    expected = np.zeros((2, 2))
    for turns in range(4):
        stays = rate**turns * (1 - rate if turns < 3 else 1)
        for axes in itertools.product(range(3), repeat=turns):
            expected[axes.count(0) % 2, axes.count(1) % 2] += stays / 3**turns
    assert expected.sum() == pytest.approx(1)
    for rows, columns in np.ndindex(2, 2):
        mirrored = image[:: 1 - 2 * rows, :: 1 - 2 * columns]
        share = (flipped == mirrored).all((1, 2)).mean()
        assert share == pytest.approx(expected[rows, columns], abs=0.03)


def test_bezier_curve_agrees_with_golden(golden):
    vectors = golden('bezier')
    with jax.enable_x64(True):
        for name in ('increasing', 'decreasing'):
            found = bezier_curve(vectors['control_points'], vectors['x'], name == 'increasing')
            np.testing.assert_allclose(found, vectors[name], atol=1e-10)


def test_intensity_maps_are_monotone_and_half_of_them_invert():
    clean, mapped = (x.reshape(DRAWS, -1) for x in views_at(nonlinear=1.0))
    order = clean.argsort(1)
    steps = np.diff(np.take_along_axis(mapped, order, 1), axis=1)
    rising, falling = (steps >= -1e-6).all(1), (steps <= 1e-6).all(1)
    assert (rising != falling).all()
    assert falling.mean() == pytest.approx(0.5, abs=0.1)


def test_intensity_map_of_what_lies_outside():
    """The nearest end counts; the ends are kept, or change places."""
    points, x = np.full((2, 2), 0.3), np.array([-1.0, 0.0, 1.0, 2.0])
    for increasing, ends in ((True, [0, 0, 1, 1]), (False, [1, 1, 0, 0])):
        found = jax.jit(bezier_curve)(points, x, increasing)
        np.testing.assert_allclose(found, ends, atol=1e-6)


@pytest.mark.parametrize('name', ['shuffle', 'nonlinear', 'paint'])
def test_rates_of_the_distortions(name):
    """Of the images that a distortion changes, the share that it does change is its rate."""

    def changed(rate):
        clean, image = views_at(**{name: rate})
        return (abs(image - clean) > 1e-5).any((1, 2))

    always, sometimes = changed(1.0), changed(0.7)
    assert always.mean() > 0.9 and not changed(0.0).any() and (sometimes <= always).all()
    assert sometimes.sum() / always.sum() == pytest.approx(0.7, abs=0.08)


def test_target_is_the_flipped_crop_that_is_otherwise_clean():
    (still, _), (moved, image) = views_at(), views_at(flip=1.0)
    np.testing.assert_array_equal(image, moved)
    ways = [still[:, :: 1 - 2 * rows, :: 1 - 2 * columns] for rows, columns in np.ndindex(2, 2)]
    which = np.stack([(moved == way).all((1, 2)) for way in ways])
    assert which.any(0).all() and which.any(1).all()
    clean, distorted = views_at(flip=1.0, shuffle=0.5, nonlinear=0.9, paint=0.9, inpaint=0.2)
    np.testing.assert_array_equal(clean, moved)
    assert distorted.min() >= 0 and distorted.max() <= 1


def made_state(task, encoder, parts):
    transform = optimizer(OptimizerSettings(), {}, {})

    def create(parts):
        return states.create(task, encoder, transform, parts, jax.random.key(9), 0.1)

    return jax.jit(create)(parts)


def test_decoder_is_handed_over_or_new():
    task, encoder = Genesis(image_size=SIZE, width=2), tiny_encoder()
    before = first_state(task, encoder)
    left = {
        part: {'params': before.params[part], 'batch_stats': before.batch_stats[part]}
        for part in task.leaves
    }
    kept = made_state(task, encoder, left)
    for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(before.params), strict=True):
        np.testing.assert_array_equal(a, b)
    fresh = made_state(task, encoder, {'encoder': left['encoder']})
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(fresh.params['decoder']),
            jax.tree.leaves(before.params['decoder']),
            strict=True,
        )
    )
    with pytest.raises(UserError, match='decoder'):
        made_state(Genesis(image_size=SIZE, width=3), encoder, left)
