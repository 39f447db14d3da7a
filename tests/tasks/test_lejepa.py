"""LeJEPA: its statistic where the value is known, and which views predict what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.tasks.lejepa import LeJEPA, epps_pulley, lejepa_loss, prediction_loss, sigreg
from data_pipelines.errors import UserError
from tests.tasks.one_step import SIZE, facts, make_views, random_batch

T = np.linspace(-5, 5, 17)
PHI = np.exp(-(T**2) / 2)


def integral(values):
    """Of values at T, weighted: trapezoids."""
    weighted = values * PHI
    return ((weighted[1:] + weighted[:-1]) / 2 * np.diff(T)).sum()


# |mean of N terms exp(itx) - phi|² is on average the variance of one over N, (1 - phi²) / N.
EXPECTED = integral(1 - PHI**2)


def constant(place, rows):
    """Statistic of `rows` equal samples: |exp(it place) - phi|² = 1 - 2 phi cos(t place) + phi²."""
    return rows * integral(1 - 2 * PHI * np.cos(T * place) + PHI**2)


def test_expectation_is_that_of_the_whole_line():
    """Integral of (1 - exp(-t²)) exp(-t²/2): the quadrature loses little."""
    assert pytest.approx(np.sqrt(2 * np.pi) * (1 - 3**-0.5), abs=2e-4) == EXPECTED


@pytest.mark.parametrize('rows', [3, 40])
def test_normal_samples_have_the_known_expectation(rows):
    """Whatever their number is; mean of 20,000 draws, within four standard errors."""
    draws = 20_000
    samples = np.random.default_rng(rows).normal(size=(rows, draws)).astype(np.float32)
    found = np.asarray(jax.jit(epps_pulley)(samples), np.float64)
    error = found.std() / draws**0.5
    assert error < 0.01 * EXPECTED
    assert abs(found.mean() - EXPECTED) < 4 * error


def test_normal_embeddings_have_it_along_every_direction():
    """SIGReg of standard normal embeddings: the mean over views and directions."""
    rng, views, rows, width, slices = np.random.default_rng(0), 600, 20, 6, 20
    embeddings = rng.normal(size=(views, rows, width)).astype(np.float32)
    directions = rng.normal(size=(width, slices)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    of_views = np.asarray(jax.jit(jax.vmap(sigreg, (0, None)))(embeddings, directions))
    error = of_views.std() / views**0.5  # the directions of one view are not independent
    assert error < 0.02 * EXPECTED
    assert abs(of_views.mean() - EXPECTED) < 4 * error
    np.testing.assert_allclose(sigreg(embeddings, directions), of_views.mean(), rtol=1e-5)
    # Twice as wide or flat in one direction is not standard normal.
    assert sigreg(2 * embeddings, directions) > 1.5 * EXPECTED
    assert sigreg(embeddings * np.r_[0, np.ones(5)], directions) > 1.05 * EXPECTED


@pytest.mark.parametrize('place', [0.0, 0.7, -3.0])
def test_one_point_for_all_images_has_its_exact_value(place):
    samples = np.full((5, 2), place, np.float32)
    np.testing.assert_allclose(epps_pulley(samples), [constant(place, 5)] * 2, rtol=1e-5)


def test_views_predict_the_mean_of_the_large_ones():
    """Large views at ±1 and a small one at 3: squared distances from 0 are 1, 1 and 9."""
    embeddings = np.ones((3, 4, 2), np.float32) * np.array([1, -1, 3])[:, None, None]
    assert prediction_loss(embeddings, 2) == pytest.approx(11 / 3)
    # Were the small one a target too: the mean is 1.
    assert prediction_loss(embeddings, 3) == pytest.approx((0 + 4 + 4) / 3)
    # No stop-gradient: the targets move as well.
    gradient = jax.grad(prediction_loss)(embeddings, 2)[:, 0, 0] * embeddings.size
    np.testing.assert_allclose(gradient, 2 * np.array([1, -1, 3]) - 2 * 3 * np.array([0.5, 0.5, 0]))


def test_one_weight_shares_between_the_two_terms():
    embeddings = np.ones((3, 4, 2), np.float32) * np.array([1, -1, 3])[:, None, None]
    directions = np.eye(2, dtype=np.float32)
    regular = np.mean([constant(place, 4) for place in (1, -1, 3)])
    for lambd in (0.0, 0.05, 1.0):
        expected = (1 - lambd) * 11 / 3 + lambd * regular
        found = lejepa_loss(embeddings, directions, 2, lambd)
        assert found == pytest.approx(expected, rel=1e-5), lambd


def test_chance_is_the_least_loss_of_one_point_for_all_images():
    task, _ = LeJEPA().resolve(facts(batch_size=64))
    assert task.chance_loss() == pytest.approx(0.05 * constant(0, 64))
    assert min(constant(place, 64) for place in np.linspace(-4, 4, 81)) == constant(0, 64)


def test_views_are_large_and_small_crops():
    task = LeJEPA(image_size=SIZE, small_size=12, small_crops=3)
    views = jax.eval_shape(lambda: make_views(task, random_batch(task)))
    assert {name: x.shape[1:] for name, x in views.items()} == {
        'large': (2, SIZE, SIZE, 1), 'small': (3, 12, 12, 1),
    }  # fmt: skip
    alone = dataclasses.replace(task, small_crops=0)
    assert list(jax.eval_shape(lambda: make_views(alone, random_batch(task)))) == ['large']


def test_directions_are_unit_and_new_in_every_step():
    keys = jax.random.split(jax.random.key(0))
    first, second = (LeJEPA(slices=7, projector=(5,)).directions(key) for key in keys)
    np.testing.assert_allclose(jnp.linalg.norm(first, axis=0), np.ones(7), rtol=1e-6)
    assert first.shape == (5, 7) and abs(first - second).max() > 0.1


@pytest.mark.parametrize(
    ('settings', 'words'),
    [({'projector': ()}, 'no layer'), ({'large_crops': 1, 'small_crops': 0}, 'one view')],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        LeJEPA(**settings).resolve(facts())
