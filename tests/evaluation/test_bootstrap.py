"""Draws of patients and seeds, and the figures made of them."""

import numpy as np
import pytest

from cxr_jax.evaluation.bootstrap import PATIENTS_AND_SEEDS, Draws, bootstrap, figure


def test_every_resample_draws_as_many_patients_as_there_are():
    counts = bootstrap(lambda c: {'counts': c}, 7, 10, Draws(4000))['counts']
    assert counts.shape == (4000, 7) and set(counts.sum(1)) == {7}
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(0), 6 / 7, atol=0.08)  # multinomial: P p (1 - p)


def test_draws_do_not_depend_on_how_many_go_through_at_a_time():
    few, many = (
        bootstrap(lambda c: {'counts': c}, 7, n, Draws(50, 3))['counts'] for n in (7, 300_000)
    )
    np.testing.assert_array_equal(few, many)


def test_seeds_are_drawn_with_replacement_in_every_resample():
    one_hot = np.broadcast_to(np.eye(5), (4000, 5, 5))  # seed s holds the s-th unit vector
    shares = Draws(4000, 0, PATIENTS_AND_SEEDS).over_seeds(one_hot)
    assert shares.shape == (4000, 5)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose((5 * shares).mean(0), 1, atol=0.06)
    np.testing.assert_allclose((5 * shares).var(0), 4 / 5, atol=0.08)
    np.testing.assert_allclose(Draws(4000).over_seeds(one_hot), 1 / 5)


def test_seeds_of_a_stream_are_drawn_alike_and_of_another_anew():
    samples, draws = np.tile(np.arange(6.0), (300, 1)), Draws(300, 0, PATIENTS_AND_SEEDS)
    first, again, other = (draws.over_seeds(samples, stream) for stream in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.2


def test_one_seed_is_the_patient_bootstrap_and_says_so():
    draws, samples = Draws(30, 0, PATIENTS_AND_SEEDS), np.random.default_rng(0).random((30, 1))
    np.testing.assert_array_equal(draws.over_seeds(samples), samples[:, 0])
    assert 'one seed only' in draws.restriction(1) and 'one seed only' in draws.restriction(3, 1)
    assert draws.restriction(3, 2) == '' and Draws().restriction(1) == ''
    with pytest.raises(ValueError, match='images'):
        Draws(over='images')


def test_figure_without_enough_resamples_has_no_interval():
    samples = np.array([0.5, np.nan, np.nan, np.nan])
    assert figure(0.5, samples, people=9)['low'] is None
    assert '1 of 4' in figure(0.5, samples, people=9)['reason']
    assert figure(0.5, np.linspace(0, 1, 1001), 9)['low'] == pytest.approx(0.025)
